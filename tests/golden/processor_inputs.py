"""Inputs of the golden processors, the same for transformers and for us."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 64
NAMES = ("plain", "ties", "filtered")


def inputs(name: str) -> tuple[NDArray[np.int64], int, NDArray[np.float32]]:
    """Token ids [rows, length], the prompts' length, and logits [rows, vocabulary].

    `plain`: random; `ties`: halves, so that many tokens are equally likely; `filtered`: many are -inf already;
    `first`: no new token yet; `wide`: a vocabulary of 50,000 with a few likely tokens, as a model has them.
    """
    random = np.random.RandomState({"plain": 1, "ties": 2, "filtered": 3, "first": 4, "wide": 5}[name])
    vocabulary, rows = (50_000, 2) if name == "wide" else (VOCABULARY, 4)
    logits = random.standard_normal((rows, vocabulary)) * 3
    if name == "ties":
        logits = np.round(logits * 2) / 2
    if name == "filtered":
        logits[random.uniform(size=logits.shape) < 0.6] = -np.inf
    if name == "wide":
        logits = logits / 2 + 12 * (random.uniform(size=logits.shape) > 0.998)
    token_ids = random.randint(4, 9, (rows, 15))  # so few that sequences repeat
    return token_ids.astype(np.int64), 15 if name == "first" else 11, logits.astype(np.float32)
