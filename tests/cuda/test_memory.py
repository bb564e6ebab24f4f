"""Memory while a text grows, and the error where it is not enough."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.device_memory import device_memory
from onnxgpt.runtime.errors import MemoryLimitError
from onnxgpt.runtime.model import Model

TOKENS = 2000
FLAT = 4 << 20  # bytes


def memory_in_use(provider: str) -> int:
    """Bytes in use on the device, by all processes; on the CPU, of this process."""
    if provider == "cpu":
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    found = device_memory(provider, 0)
    assert found.total is not None
    assert found.free is not None
    return found.total - found.free


def test_memory_stays_flat_over_a_long_text(model: Model, provider: str) -> None:
    """The window slides: 2,000 tokens are several times the model's context."""
    if provider == "cpu" and not sys.platform.startswith("linux"):
        pytest.skip("the process's memory is read from /proc: Linux")
    used = []
    with model.stream(
        "Once upon a time", max_new_tokens=TOKENS, context_end="slide", seed=1, do_sample=True, eos_token_id=[]
    ) as stream:
        for count, _ in enumerate(stream, start=1):
            if count in (TOKENS // 2, TOKENS):
                used.append(memory_in_use(provider))

    assert used[1] - used[0] <= FLAT


def test_a_generation_gives_its_memory_back(model: Model, provider: str) -> None:
    if provider == "cpu" and not sys.platform.startswith("linux"):
        pytest.skip("the process's memory is read from /proc: Linux")
    for _ in range(2):  # the first ones fill ONNX Runtime's arena
        model.generate("Once upon a time", max_new_tokens=100, do_sample=False, eos_token_id=[])
    before = memory_in_use(provider)
    for _ in range(10):
        model.generate("Once upon a time", max_new_tokens=100, do_sample=False, eos_token_id=[])

    assert memory_in_use(provider) - before <= FLAT


def test_too_little_memory_names_a_context_that_fits(
    open_model: Callable[..., Model], provider: str, float16_bundle: Bundle
) -> None:
    """On the device the limit is ONNX Runtime's own, so that a full device is what it runs into."""
    weights = float16_bundle.weight_bytes
    if provider == "cpu":
        tight = open_model(float16_bundle, memory_limit=weights + 100_000)
    else:
        tight = open_model(float16_bundle, provider_options={"gpu_mem_limit": weights + (64 << 20)})
    with pytest.raises(MemoryLimitError, match=r"context|tokens"):
        tight.generate(["Once upon a time"] * 256, max_new_tokens=250, do_sample=False, eos_token_id=[])
