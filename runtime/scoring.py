"""Scores: how likely a model finds a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cache import AnyCache
from .logits import log_sum_exp
from .session import Session

_CHUNK = 128  # tokens: their logits are in memory at once


@dataclass(frozen=True)
class Score:
    """Log-probabilities (natural) of a text's tokens, each given all before it; the first has none before it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # of token_ids[1:]

    @property
    def total(self) -> float:
        """Sum of the log-probabilities."""
        return math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability."""
        return math.exp(-self.total / len(self.logprobs))


def score_tokens(session: Session, cache: AnyCache, ids: Sequence[int]) -> Score:
    """Score at least two tokens with an empty cache of one row; memory stays bounded by chunks."""
    array = np.asarray(ids, np.int64)
    logprobs: list[float] = []
    for start in range(0, len(array) - 1, _CHUNK):
        stop = min(start + _CHUNK, len(array) - 1)
        logits = session.step(array[None, start:stop], cache, keep=0)[0].astype(np.float32, copy=False)
        chosen = np.take_along_axis(logits, array[start + 1 : stop + 1, None], axis=1)[:, 0]
        logprobs += (chosen - log_sum_exp(logits)).tolist()
    return Score(tuple(int(token) for token in array), tuple(logprobs))
