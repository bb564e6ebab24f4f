"""Log-probabilities out of logits, without an array of the vocabulary's size for each token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .logits import Logits
from .results import RankedToken, Ranking

TokenIds = Sequence[int] | NDArray[np.int64]


class Likelihood:
    """Tells how likely the model itself finds tokens. Owns the memory that this takes: one thread uses it."""

    def __init__(self, rows: int, vocabulary: int):
        self._scratch: Logits = np.empty((rows, vocabulary), np.float32)

    def normalizers(self, logits: Logits) -> NDArray[np.float32]:
        """log(sum(exp(logits))) of each row, [rows]: what a logit less this is a log-probability.

        Args:
            logits: float32 [rows, vocabulary], not more rows than there is memory for.
        """
        powers = self._scratch[: len(logits)]
        highest = logits.max(axis=1)
        np.subtract(logits, highest[:, None], out=powers)
        np.exp(powers, out=powers)
        result: NDArray[np.float32] = highest + np.log(powers.sum(axis=1))
        return result

    def measure(self, logits: Logits, tokens: TokenIds, count: int) -> tuple[list[float], list[Ranking]]:
        """Log-probabilities of one token of each row, and each row's `count` likeliest tokens."""
        normalizers = self.normalizers(logits).tolist()
        chosen = [float(row[token]) - norm for row, token, norm in zip(logits, tokens, normalizers, strict=True)]
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
