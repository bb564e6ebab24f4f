"""Prompt lookup: guesses that a text goes on as it did where its last tokens came before (Saxena, 2023).

Texts that quote, correct or sum up their prompt repeat much of it, and any text repeats itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .drafting import HitRates, worthwhile_count
from .row import Row

_ASSUMED = (0.1, 0.3, 0.6, 0.8)  # rate of guesses behind so many repeated tokens, or more


class PromptLookup:
    """Guesses the continuation of the longest repetition that a text ends with, of several of them the last one."""

    def __init__(self, most: int, longest: int, checking_cost: float):
        """A drafter for any model.

        Args:
            most: candidates for one pass.
            longest: how many of the last tokens are looked up at most.
            checking_cost: of each candidate, in single steps.
        """
        self._most = most
        self._cost = checking_cost
        self._longest = longest
        self.begin()

    def begin(self) -> None:
        """Forget how well guesses went."""
        lengths = range(1, self._longest + 1)
        self._rates = HitRates({length: _ASSUMED[min(length, len(_ASSUMED)) - 1] for length in lengths})

    def draft(self, row: Row, most: int) -> Sequence[int]:
        """As `Drafter.draft`."""
        ids = row.token_ids
        self._rates.learn(ids)
        found = continuation(ids, self._longest, self._most)
        if found is None:
            return ()
        guess, length = found
        self._rates.expect(len(ids), [(token, length) for token in guess])
        return guess[: worthwhile_count(self._rates.rate(length), min(most, self._most), self._cost)]

    def close(self) -> None:
        """Nothing is held."""


def continuation(ids: NDArray[np.int64], longest: int, count: int) -> tuple[list[int], int] | None:
    """What followed where the last tokens of a text came before, as many of them as possible.

    Args:
        ids: the text, [tokens].
        longest: how many of the last tokens are looked up at most.
        count: how many tokens to give; what followed is repeated where it is shorter.

    Returns:
        The tokens, and how many of the last ones came before; None where even the very last one did not.

    >>> continuation(np.array([7, 1, 2, 3, 9, 2, 8, 1, 2]), 3, 4)
    ([3, 9, 2, 8], 2)
    >>> continuation(np.array([5, 6, 5, 6]), 3, 5)
    ([5, 6, 5, 6, 5], 2)
    """
    places = np.flatnonzero(ids[:-1] == ids[-1])  # of the last token, wherever it came before
    if not len(places):
        return None
    length = 1
    while length < longest:
        longer = places[np.searchsorted(places, length) :]
        longer = longer[ids[longer - length] == ids[-1 - length]]
        if not len(longer):
            break
        places, length = longer, length + 1
    start = int(places[-1]) + 1
    followed: list[int] = np.resize(ids[start : start + count], count).tolist()
    return followed, length
