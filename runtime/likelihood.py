"""Log-probabilities out of logits, without an array of the vocabulary's size for each token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .logits import Logits
from .results import RankedToken, Ranking

TokenIds = Sequence[int] | NDArray[np.int64]
_SAFE = 60.0  # up to this, and down to it, the sum of any vocabulary's powers is a float32
_BLOCK = 1 << 14  # logits at once: so few stay in the nearest memory of a processor from one pass to the next


class Likelihood:
    """Tells how likely the model itself finds tokens. Owns the memory that this takes: one thread uses it."""

    def __init__(self) -> None:
        self._scratch: Logits = np.empty(_BLOCK, np.float32)

    def normalizer(self, logits: Logits, highest: np.float32 | None = None) -> float:
        """log(sum(exp(logits))) of one row: a logit less this is a log-probability.

        Args:
            logits: float32 [vocabulary].
            highest: the greatest of them, where it is known.
        """
        if highest is None:
            highest = logits.max()
        is_safe = -_SAFE < highest < _SAFE
        total = 0.0
        for start in range(0, len(logits), _BLOCK):
            block = logits[start : start + _BLOCK]
            powers = self._scratch[: len(block)]
            np.exp(block if is_safe else np.subtract(block, highest, out=powers), out=powers)
            total += float(np.add.reduce(powers))
        return math.log(total) + (0.0 if is_safe else float(highest))

    def measure(
        self, logits: Logits, tokens: TokenIds, count: int, *, are_likeliest: bool = False
    ) -> tuple[list[float], list[Ranking]]:
        """Log-probabilities of one token of each row, and each row's `count` likeliest tokens.

        Args:
            logits: float32 [rows, vocabulary].
            tokens: [rows].
            count: how many to rank; with 0 the rankings are empty.
            are_likeliest: the tokens are known to be the likeliest of their rows, which saves looking for these.
        """
        chosen: list[float] = []
        normalizers: list[float] = []
        for row, token in zip(logits, tokens, strict=True):
            logit = row[token]
            normalizers.append(self.normalizer(row, logit if are_likeliest else None))
            chosen.append(float(logit) - normalizers[-1])
        if not count:
            return chosen, [()] * len(chosen)
        return chosen, [rank(row, count, norm) for row, norm in zip(logits, normalizers, strict=True)]


def rank(logits: Logits, count: int, normalizer: float) -> Ranking:
    """The `count` likeliest tokens of [vocabulary], the likeliest first; of equal ones the smaller id.

    >>> [token.id for token in rank(np.array([0.0, 3.0, 1.0, 3.0], np.float32), 3, 0.0)]
    [1, 3, 2]
    """
    count = min(count, len(logits))
    border = np.partition(logits, len(logits) - count)[len(logits) - count]
    candidates = np.flatnonzero(logits >= border)  # more than `count` where some are equal
    best = candidates[np.argsort(-logits[candidates], kind="stable")[:count]]
    return tuple(RankedToken(int(token), float(logits[token]) - normalizer) for token in best)
