"""Drafting: guessing the next tokens, so that a model can check several in one pass; and when that is worth its cost.

What is guessed never decides about a text, only about how many of its tokens a pass computes. Whether to guess is
decided by the tokens alone and never by a clock, so that one call makes the same passes every time.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

from .likelihood import TokenIds
from .row import Row

# What each candidate adds to the time of a pass, in single steps, up to 16 of them: the step reads the weights in any
# case, and the smaller they are, the more the arithmetic counts.
CHECKING_COST, CHECKING_COST_QUANTIZED = 0.06, 0.16
WORTH_IT = 1.3  # tokens in the time of a single step: where less is expected, single steps are surer
_PRIOR_WEIGHT = 2.0  # tokens that a rate assumed at the beginning counts for
_MEMORY = 0.9  # what a token counts for when the next one is known


class Drafter(Protocol):
    """Guesses the next tokens of one row after the other."""

    def begin(self) -> None:
        """Forget the row before: another one begins."""

    def draft(self, row: Row, most: int) -> Sequence[int]:
        """Candidates for the row's next tokens, at most `most`; none where checking any is not worth its cost."""

    def close(self) -> None:
        """Free what this holds. May be called twice."""


class HitRates:
    """How often guesses came true lately, by the kind of evidence that there was for them.

    Guesses that nobody checked are counted too, once the text has gone on: so a drafter that has fallen silent learns
    when its guesses become good.
    """

    def __init__(self, assumed: dict[Hashable, float]):
        """Begin with an assumed rate for each kind."""
        self._hits = {kind: rate * _PRIOR_WEIGHT for kind, rate in assumed.items()}
        self._guesses = dict.fromkeys(assumed, _PRIOR_WEIGHT)
        self._position = 0  # in the text, of the first token of the guess
        self._guess: list[tuple[int, Hashable]] = []  # tokens and the kinds of their evidence

    def expect(self, position: int, guess: list[tuple[int, Hashable]]) -> None:
        """Remember what was guessed for the tokens from a position on."""
        self._position, self._guess = position, guess

    def learn(self, text: TokenIds) -> None:
        """Count which of the tokens that were guessed last have come, up to the first wrong one; the text is whole."""
        for (token, kind), came in zip(self._guess, text[self._position :], strict=False):
            is_hit = token == int(came)
            self._hits[kind] = self._hits[kind] * _MEMORY + is_hit
            self._guesses[kind] = self._guesses[kind] * _MEMORY + 1
            if not is_hit:
                break
        self._guess = []

    def rate(self, kind: Hashable) -> float:
        """Share of the guesses of a kind that came true, from 0 to 1."""
        return self._hits[kind] / self._guesses[kind]


def worthwhile_count(rate: float, most: int, cost: float) -> int:
    """How many candidates bring most tokens for the time, if each comes true at this rate and none behind a wrong one.

    The pass brings a token of its own behind the last right candidate, so k candidates bring 1 + r + … + r**k tokens.

    Args:
        rate: from 0 to 1.
        most: candidates at most.
        cost: time that each of them takes, in single steps.

    >>> worthwhile_count(0.1, 10, 0.16), worthwhile_count(0.5, 10, 0.16), worthwhile_count(0.9, 10, 0.16)
    (0, 2, 8)
    """
    count, best = 0, WORTH_IT
    tokens = reached = 1.0
    for candidates in range(1, most + 1):
        reached *= rate
        tokens += reached
        gain = tokens / (1 + cost * candidates)
        if gain > best:
            count, best = candidates, gain
    return count
