"""What crosses the bus for a token: ids one way, the likeliest tokens the other, and no vocabulary of logits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.model import Model

NEW = 40
SERVED: list[dict[str, Any]] = [
    {"do_sample": False},
    {"do_sample": True, "seed": 3, "top_k": 40, "top_p": 0.95},
    {"do_sample": False, "num_beams": 4},
]


def copied_to_host(events: list[dict[str, Any]]) -> list[int]:
    """Bytes of every copy from the device to the host in a trace of PyTorch's profiler, whoever made it."""
    copies = (event for event in events if event.get("cat") == "gpu_memcpy" and "DtoH" in event["name"])
    return [int(event["args"]["bytes"]) for event in copies]


def test_copies_are_read_from_a_trace() -> None:
    events = [
        {"cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pageable)", "args": {"bytes": 768}},
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD (Pinned -> Device)", "args": {"bytes": 8}},
        {"cat": "kernel", "name": "gemm", "args": {}},
    ]

    assert copied_to_host(events) == [768]


@pytest.mark.parametrize("options", SERVED, ids=str)
def test_no_logits_are_fetched_for_a_token(
    model: Model, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[int] = []
    fetch = model.session.last_logits
    monkeypatch.setattr(model.session, "last_logits", lambda cache: fetched.append(1) or fetch(cache))
    [completion] = model.generate("Once upon a time", max_new_tokens=NEW, eos_token_id=[], **options)

    assert completion.completion_tokens == NEW
    assert fetched == []


@pytest.mark.parametrize("options", [*SERVED, {"do_sample": True, "seed": 4, "top_k": 0, "top_p": 0.7}], ids=str)
def test_the_shortlist_chooses_what_all_logits_choose(
    model: Model, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float16, where many logits are exactly equal."""
    prompts = ["Once upon a time", "The old king had three sons"]
    found = model.generate(prompts, max_new_tokens=NEW, eos_token_id=[], **options)
    monkeypatch.setattr(model.session, "spec", replace(model.session.spec, choices=0))
    expected = model.generate(prompts, max_new_tokens=NEW, eos_token_id=[], **options)

    for mine, theirs in zip(found, expected, strict=True):
        assert mine.token_ids == theirs.token_ids
        np.testing.assert_allclose(mine.logprobs, theirs.logprobs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", SERVED, ids=str)
def test_the_bus_carries_no_logits(model: Model, provider: str, options: dict[str, Any], tmp_path: Path) -> None:
    """By the driver's own records (CUPTI), which hold the copies of every library in the process."""
    if provider == "cpu":
        pytest.skip("the CPU has no bus: nothing to look at")
    if not torch.cuda.is_available():
        pytest.skip("needs a PyTorch that was built for CUDA, for its profiler")
    model.generate("Once upon a time", max_new_tokens=4, **options)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        model.generate("Once upon a time", max_new_tokens=NEW, eos_token_id=[], **options)
    trace = tmp_path / "trace.json"
    profile.export_chrome_trace(str(trace))
    copies = copied_to_host(json.loads(trace.read_text())["traceEvents"])
    row = model.session.spec.vocab_size * model.session.spec.logits_dtype.itemsize
    rows = options.get("num_beams", 1)

    assert copies, "the profiler recorded no copies: it does not see ONNX Runtime's, and proves nothing"
    assert sum(size >= row for size in copies) <= 1  # the prompt's last position
    assert sum(copies) <= row + NEW * (rows + 1) * 1024  # 780 bytes a row, and what aligns them


def test_no_node_sends_more_than_a_number_to_the_host(
    provider: str, float16_bundle: Bundle, model: Model, tmp_path: Path
) -> None:
    """By ONNX Runtime's own profile of single steps: a node on the CPU amid others would have its inputs sent there."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "steps")
    name = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[provider]
    session = ort.InferenceSession(str(float16_bundle.graph_path), options, providers=[name])
    spec, past = model.session.spec, 16
    feeds: dict[str, Any] = {
        "input_ids": np.array([[7]]),
        "attention_mask": np.ones((1, past + 1), np.int64),
        spec.keep_name: np.array([1]),
    }
    pasts = [(1, heads, past, size) for heads, size in spec.layout.layers for _ in range(2)]
    feeds |= {key: np.zeros(shape, spec.layout.dtype) for key, shape in zip(spec.past_names, pasts, strict=True)}
    for _ in range(3):
        session.run(["top_ids", "top_logits", "log_normalizer", *spec.present_names], feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if str(event.get("name", "")).endswith("_kernel_time")]
    sent = [int(event["args"]["output_size"]) for event in nodes if event["args"]["op_name"] == "MemcpyToHost"]

    assert any(event["args"]["op_name"] == "TopK" for event in nodes)
    assert sum(sent) <= 3 * 64  # lengths and shapes
