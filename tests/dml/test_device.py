"""The embedded model on a DirectML device: the same numbers as on the CPU, and the same text again.

Nothing of this can be seen on a machine without one; what the graphs for DirectML hold is checked in tests/graphs.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import onnxgpt
from onnxgpt.export import export_bundle
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.devices import devices_of
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.model import Model

from ..conftest import FAIRYTALE_CHECKPOINT

pytestmark = pytest.mark.dml
TEXT = "Once upon a time there was a king who had three daughters, and the youngest of them was so beautiful that"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The fairy-tale model in float16, on the device."""
    if "DmlExecutionProvider" not in ort.get_available_providers():
        pytest.skip("needs onnxruntime-directml (pip install onnxgpt[directml])")
    if not (devices := devices_of("dml")):
        pytest.skip(f"needs a DirectX 12 device: {devices.reason}")
    directory = tmp_path_factory.mktemp("dml")
    source = shutil.copytree(FAIRYTALE_CHECKPOINT, directory / "source" / "fairytale")
    bundle = export_bundle(source, directory / "fairytale", target="dml")
    return onnxgpt.load(Path(bundle.directory), provider="dml")


def log_probabilities(model: Model, ids: list[int]) -> np.ndarray:
    logits = model.logits(ids).astype(np.float64)
    highest = logits.max(axis=1, keepdims=True)
    return logits - highest - np.log(np.exp(logits - highest).sum(axis=1, keepdims=True))


def test_float16_on_the_device_agrees_with_float32_on_the_cpu(model: Model, full_bundle: Bundle) -> None:
    ids = model.tokenizer.encode(TEXT)
    theirs = log_probabilities(onnxgpt.load(full_bundle.directory, provider="cpu"), ids)

    ours = log_probabilities(model, ids)

    assert model.session.provider == "dml"
    assert np.abs(ours - theirs).max() <= 0.05
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() >= 0.9


def test_the_same_seed_gives_the_same_text_again(model: Model) -> None:
    first, again = (model.generate(TEXT, seed=7, max_new_tokens=40)[0] for _ in range(2))

    assert first.text == again.text
    assert len(first.token_ids) == 40 or first.finish_reason != "length"
