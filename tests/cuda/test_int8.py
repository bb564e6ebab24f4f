"""The 8-bit bundle for CUDA: as near to PyTorch as its report says, and it writes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.model import Model

from .test_generation import GREEDY, PROMPTS
from .test_parity import logprobs_of


def test_int8_is_as_near_as_its_report_says(
    open_model: Callable[..., Model],
    int8_bundle: Bundle,
    windows: list[NDArray[np.int64]],
    torch_logprobs: NDArray[np.float64],
) -> None:
    """The report is of the same kind of text; kernels of another provider round otherwise."""
    found = logprobs_of(open_model(int8_bundle), windows)
    divergence = (np.exp(torch_logprobs) * (torch_logprobs - found)).sum(axis=-1).mean()
    quality = int8_bundle.manifest.quality
    assert quality is not None

    assert 0 < divergence <= 1.25 * quality["mean_kl"] + 1e-4


def test_int8_writes_too(open_model: Callable[..., Model], int8_bundle: Bundle) -> None:
    int8 = open_model(int8_bundle)
    assert int8.session.spec.choices
    [completion] = int8.generate(PROMPTS[0], **GREEDY)
    [again] = int8.generate(PROMPTS[0], **GREEDY)

    assert completion.token_ids == again.token_ids
