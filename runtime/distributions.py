"""Logits to probabilities, over the last axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


def softmax(logits: Logits) -> Logits:
    """Probabilities along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Logits = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def log_sum_exp(logits: Logits) -> NDArray[np.float32]:
    """log(sum(exp(logits))) along the last axis: what turns a logit into a log-probability when subtracted."""
    highest = logits.max(axis=-1)
    result: NDArray[np.float32] = highest + np.log(np.exp(logits - highest[..., None]).sum(axis=-1))
    return result


def log_softmax(logits: Logits) -> Logits:
    """Natural logarithms of the probabilities along the last axis."""
    result: Logits = logits - log_sum_exp(logits)[..., None]
    return result


def entropy(log_probabilities: Logits, probabilities: Logits) -> NDArray[np.float32]:
    """Entropy in nats along the last axis, which is kept; a probability of 0 adds nothing."""
    finite = np.maximum(log_probabilities, np.finfo(np.float32).min)  # 0 * -inf would be no number
    result: NDArray[np.float32] = -(finite * probabilities).sum(axis=-1, keepdims=True)
    return result
