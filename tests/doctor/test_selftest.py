"""The self-test: its vectors are PyTorch's, and a model or a kernel that computes something else is found."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

import onnxgpt
from onnxgpt.doctor.selftest import read_vectors, selftest_findings
from onnxgpt.models.catalog import find
from onnxgpt.runtime.bundle import Bundle, seal

ADVICE = "do this"


def findings(directory: Path) -> dict[str, str]:
    """States by what was tested of a bundle on the CPU."""
    found = list(selftest_findings(lambda: onnxgpt.load(directory, provider="cpu"), "cpu", ADVICE))
    assert all((finding.advice == ADVICE) == (finding.state == "fault") for finding in found)
    return {finding.name.removeprefix("self-test on cpu: "): finding.state for finding in found}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(find("fairytale"), tmp_path / "copy")


def test_the_vectors_are_what_transformers_computes() -> None:
    path = Path(__file__).parents[1] / "golden" / "make_doctor_vectors.py"
    spec = importlib.util.spec_from_file_location("make_doctor_vectors", path)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    expected, stored = maker.compute(), read_vectors()

    assert stored["texts"] == expected["texts"]
    assert sum(len(text["ids"]) for text in stored["texts"]) > 40
    for ours, theirs in zip(stored["logits"], expected["logits"], strict=True):
        assert ours["ids"] == theirs["ids"]
        for one, other in zip(ours["positions"], theirs["positions"], strict=True):
            assert (one["position"], one["tokens"]) == (other["position"], other["tokens"])
            assert np.allclose(one["logprobs"], other["logprobs"], atol=1e-4)


def test_the_embedded_model_passes() -> None:
    assert findings(find("fairytale")) == {"parity": "ok", "text": "ok", "speed": "ok"}


def test_weights_that_changed_a_little_everywhere_are_found(copy: Path) -> None:
    """A bundle whose manifest says that all is well: only computing tells."""
    weights = copy / "model.onnx.data"
    content = np.fromfile(weights, np.uint8)
    content[: content.size // 2] ^= 0x10  # an eighth of an 8-bit weight's range
    weights.write_bytes(content.tobytes())
    seal(copy, Bundle.open(find("fairytale")).manifest)

    assert findings(copy)["parity"] == findings(copy)["text"] == "fault"


def test_a_model_that_can_t_be_opened_is_a_fault(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"nothing")
    seal(copy, Bundle.open(find("fairytale")).manifest)

    assert findings(copy) == {"parity": "fault"}
