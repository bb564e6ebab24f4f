"""Sampler: processed logits to a token, with the specified random stream (random.py)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .random import uniform

_NEVER = np.float32(-np.inf)
_BLOCK = 256  # a running sum over all the vocabulary would take longer than all else


def choose_by_number(logits: NDArray[np.float32], number: float) -> int:
    """The token that a number in [0, 1) chooses: tokens take consecutive shares of the interval, in order of id.

    Args:
        logits: [vocabulary], -inf for tokens that are filtered out.
        number: from the random stream.

    >>> choose_by_number(np.log(np.array([0.25, 0.5, 0.25], np.float32)), 0.3)
    1
    """
    candidates = np.flatnonzero(logits > _NEVER)
    scores = logits[candidates].astype(np.float64)
    index = _share_of(np.exp(scores - scores.max()), number)
    return int(candidates[index])


def _share_of(shares: NDArray[np.float64], number: float) -> int:
    """The first of `shares` whose running sum is above number * total; of many, by the sums of blocks first."""
    if len(shares) <= 2 * _BLOCK:
        sums = np.cumsum(shares)
        return min(int(np.searchsorted(sums, number * sums[-1], side="right")), len(shares) - 1)
    blocks = np.cumsum(np.add.reduceat(shares, np.arange(0, len(shares), _BLOCK)))
    wanted = number * blocks[-1]
    block = min(int(np.searchsorted(blocks, wanted, side="right")), len(blocks) - 1)
    before = blocks[block - 1] if block else 0.0
    within = before + np.cumsum(shares[block * _BLOCK : (block + 1) * _BLOCK])
    return block * _BLOCK + min(int(np.searchsorted(within, wanted, side="right")), len(within) - 1)


class Sampler:
    """Chooses the tokens of one sequence: greedily, or by the random stream of (seed, sequence, step)."""

    def __init__(self, *, is_greedy: bool, seed: int, sequence: int = 0):
        self._is_greedy = is_greedy
        self._seed = seed
        self.sequence = sequence

    def choose(self, logits: NDArray[np.float32], step: int) -> int:
        """The token of step `step` (from 0) for processed logits [vocabulary]."""
        if self._is_greedy:
            return int(logits.argmax())
        return choose_by_number(logits, uniform(self._seed, self.sequence, step))
