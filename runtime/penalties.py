"""Penalties: processors that make tokens less (or more) likely by what the text holds already.

All take logits float32 [rows, vocabulary], never write into them, and give new ones, or the same where nothing changes.
"""

from __future__ import annotations

import numpy as np

from .distributions import Logits
from .token_rows import Ids, Rows

_HIGHEST_GROWTH = 1e30  # keeps a decayed logit finite in float32


def penalize_repetition(rows: Rows, logits: Logits, penalty: float) -> Logits:
    """Divide positive and multiply negative logits of tokens that occurred by `penalty` (Keskar et al. 2019, CTRL).

    >>> penalize_repetition(Rows([[0, 1, 1]], [3], [0]), np.array([[2.0, -2.0, 1.0]], np.float32), 2.0).tolist()
    [[1.0, -4.0, 1.0]]
    """
    result = logits.copy()
    cells, flat = rows.cells(logits.shape[1]), result.reshape(-1)
    scores = flat[cells]
    less_likely = np.minimum if penalty > 1 else np.maximum  # of the product and the quotient, whatever the sign
    flat[cells] = less_likely(scores * np.float32(penalty), scores / np.float32(penalty))
    return result


def penalize_presence_and_frequency(rows: Rows, logits: Logits, presence: float, frequency: float) -> Logits:
    """Subtract `presence` from the logits of new tokens so far, and `frequency` once for each time (OpenAI's API).

    The prompt does not count.

    >>> rows = Rows([[2, 0, 1, 1]], [1], [0])
    >>> penalize_presence_and_frequency(rows, np.zeros((1, 3), np.float32), 0.5, 0.25).tolist()
    [[-0.75, -1.0, 0.0]]
    """
    cells, counts = np.unique(rows.new_cells(logits.shape[1]), return_counts=True)
    if not cells.size:
        return logits
    result = logits.copy()
    result.reshape(-1)[cells] -= (counts * frequency + presence).astype(np.float32)
    return result


def grow_end(rows: Rows, logits: Logits, end_tokens: Ids, start: int, factor: float) -> Logits:
    """From `start` new tokens on, raise the logits of end tokens by |logit| * (factor ** (tokens past start) - 1).

    transformers' exponential_decay_length_penalty.

    >>> rows = Rows([[5, 6, 7]], [0], [0])
    >>> grow_end(rows, np.array([[2.0, -2.0, 1.0]], np.float32), np.array([1]), 1, 1.5).tolist()
    [[2.0, 0.5, 1.0]]
    """
    past = rows.new_counts - start
    if not (past > 0).any():
        return logits
    with np.errstate(over="ignore"):
        powers = np.minimum(np.power(factor, np.maximum(past, 0), dtype=np.float64), _HIGHEST_GROWTH)
    growth = (powers - 1).astype(np.float32)[:, None]
    result = logits.copy()
    scores = logits[:, end_tokens]
    result[:, end_tokens] += np.where(np.isfinite(scores), np.abs(scores) * growth, np.float32(0))
    return result
