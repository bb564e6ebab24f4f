"""Sampler: processed logits to a token, with the specified random stream (random.py)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .random import uniform

_NEVER = np.float32(-np.inf)
_AHEAD = 16  # steps
_BLOCK = 256  # a running sum over all the vocabulary would take longer than all else


def choose_by_number(logits: NDArray[np.float32], number: float) -> int:
    """The token that a number in [0, 1) chooses: tokens take consecutive shares of the interval, in order of id.

    Args:
        logits: [tokens], -inf for tokens that are filtered out.
        number: from the random stream.

    >>> choose_by_number(np.log(np.array([0.25, 0.5, 0.25], np.float32)), 0.3)
    1
    """
    if len(logits) <= 2 * _BLOCK:
        return _share_of(_shares(logits), number)
    left = logits > _NEVER
    if 2 * np.count_nonzero(left) > len(logits):
        return _share_of(_shares(logits), number)
    candidates = np.flatnonzero(left)
    return int(candidates[_share_of(_shares(logits[candidates]), number)])


def _shares(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shares = logits.astype(np.float64)
    shares -= shares.max()
    result: NDArray[np.float64] = np.exp(shares, out=shares)
    return result


def _share_of(shares: NDArray[np.float64], number: float) -> int:
    """The first of `shares` whose running sum is above number * total; of many, by the sums of blocks first.

    So a share of 0 is never chosen.
    """
    if len(shares) <= 2 * _BLOCK:
        sums = shares.cumsum()
        return int(sums.searchsorted(number * sums[-1], "right"))
    blocks = np.add.reduceat(shares, np.arange(0, len(shares), _BLOCK)).cumsum()
    wanted = number * blocks[-1]
    block = int(blocks.searchsorted(wanted, "right"))
    before = blocks[block - 1] if block else 0.0
    within = before + shares[block * _BLOCK : (block + 1) * _BLOCK].cumsum()
    # Rounded otherwise, the block's own sums may end just below what its sum reached.
    wanted = min(wanted, np.nextafter(within[-1], 0.0))
    return block * _BLOCK + int(within.searchsorted(wanted, "right"))


class Sampler:
    """Chooses the tokens of one sequence: greedily, or by the random stream of (seed, sequence, step)."""

    def __init__(self, *, is_greedy: bool, seed: int, sequence: int = 0):
        self._is_greedy = is_greedy
        self._seed = seed
        self.sequence = sequence
        self._numbers: list[float] = []  # of the steps from _first_step on
        self._first_step = 0

    def choose(self, logits: NDArray[np.float32], step: int, ids: NDArray[np.int64] | None = None) -> int:
        """The token of step `step` (from 0) for processed logits [tokens], whose ids are 0, 1, … unless given."""
        place = int(logits.argmax()) if self._is_greedy else choose_by_number(logits, self._number(step))
        return place if ids is None else int(ids[place])

    def _number(self, step: int) -> float:
        """The random stream's number, computed for several steps at once: between two the caches forget the code."""
        if not 0 <= step - self._first_step < len(self._numbers):
            self._first_step = step
            self._numbers = [uniform(self._seed, self.sequence, step + ahead) for ahead in range(_AHEAD)]
        return self._numbers[step - self._first_step]
