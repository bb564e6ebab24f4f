"""Bundles for CUDA against PyTorch on the same device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxgpt.runtime.model import Model

LARGEST_DIFFERENCE = 0.05  # of log-probabilities, for float16
LEAST_AGREEMENT = 0.995  # of the likeliest tokens


def logprobs_of(model: Model, windows: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """What a bundle says of a text, [tokens, vocabulary]."""
    found = []
    for ids in windows:
        cache = model.session.new_cache(capacity=ids.shape[1])
        logits = model.session.step(ids, cache, keep=0)[0].astype(np.float64)
        cache.close()
        highest = logits.max(axis=-1, keepdims=True)
        found.append(logits - highest - np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True)))
    return np.concatenate(found)


def test_float16_is_the_checkpoint(
    model: Model, windows: list[NDArray[np.int64]], torch_logprobs: NDArray[np.float64]
) -> None:
    found = logprobs_of(model, windows)

    assert np.abs(found - torch_logprobs).max() <= LARGEST_DIFFERENCE
    assert (found.argmax(axis=-1) == torch_logprobs.argmax(axis=-1)).mean() >= LEAST_AGREEMENT


def test_single_steps_are_the_prompts_positions(
    model: Model, windows: list[NDArray[np.int64]], torch_logprobs: NDArray[np.float64]
) -> None:
    """A prefill of a few tokens and single steps behind it, as generation makes them."""
    [ids] = windows[0]
    cache = model.session.new_cache(capacity=8)  # which has to grow
    found = [model.session.step(ids[None, :20], cache).astype(np.float64)[0, -1]]
    found += [model.session.step(np.array([[token]]), cache).astype(np.float64)[0, -1] for token in ids[20:60]]
    cache.close()
    logits = np.array(found)
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    assert np.abs(logprobs - torch_logprobs[19:60]).max() <= LARGEST_DIFFERENCE
