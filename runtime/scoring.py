"""Scores: how likely a model finds a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .cache import AnyCache
from .reading import Reader


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


def score_tokens(reader: Reader, cache: AnyCache, ids: Sequence[int]) -> Score:
    """Score at least two tokens with an empty cache of one row; memory stays bounded by chunks."""
    found = reader.measure(cache, ids[:-1], ids[1:])
    assert found is not None  # this reader has nothing that interrupts it
    return Score(tuple(ids), tuple(found[0].logprobs))
