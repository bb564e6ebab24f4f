"""What the table of kernels says of DirectML, on a device: each form of graph computes there what it does on the CPU.

The rotation outside of attention, GELU's tanh form, zeros of blocks, written-out attention, codes and their scales.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxgpt
from onnxgpt.export import export_bundle
from onnxgpt.quantize import quantize_bundle
from onnxgpt.runtime.devices import devices_of
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.model import Model

from ..families.cases import all_cases
from ..families.judging import log_probabilities, save, tiny_model

pytestmark = pytest.mark.dml
TEXT = "In a kingdom by the sea there lived a miller who had three sons, a mill, a donkey and a cat. " * 40
PROMPT, STEPS = 40, 40  # a step behind each other crosses the cache's growth at 64 tokens


@pytest.fixture(scope="module", autouse=True)
def device() -> None:
    """Skip where nothing can be seen."""
    if "DmlExecutionProvider" not in ort.get_available_providers():
        pytest.skip("needs onnxruntime-directml (pip install onnxgpt[directml])")
    if not (devices := devices_of("dml")):
        pytest.skip(f"needs a DirectX 12 device: {devices.reason}")


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "qwen3", "bloom", "gemma2"])
@pytest.mark.parametrize(
    ("operators", "recipe"), [("fused", None), ("standard", None), ("fused", "int4"), ("standard", "int8-static")]
)
def test_prompts_and_steps_are_the_cpus(family: str, operators: str, recipe: str | None, tmp_path: Path) -> None:
    case = next(case for case in all_cases() if case.model_type == family)
    source = save(tiny_model(case.model_type, case.settings), tmp_path / "source")
    bundle = export_bundle(source, tmp_path / "bundle", target="dml", operators=operators)
    if recipe is not None:
        text = tmp_path / "text.txt"
        text.write_text(TEXT, encoding="utf-8")
        options = {"calibration": text, "evaluation": text, "accept_quality": True}
        bundle = quantize_bundle(bundle.directory, tmp_path / "made", recipe=recipe, **options)
    ids = np.random.default_rng(8).integers(1, 300, PROMPT + STEPS)
    expected, found = (stepped(onnxgpt.load(bundle.directory, provider=provider), ids) for provider in ("cpu", "dml"))

    differences = np.abs(found - expected).max(axis=-1)
    assert differences.max() <= (0.2 if recipe is None else 1.0)  # float16; 8-bit codes may round to either side
    assert np.median(differences) <= 0.05


def stepped(model: Model, ids: np.ndarray) -> np.ndarray:
    """Log-probabilities [1 + steps, vocabulary] behind the prompt and behind each token after it."""
    with model.session.new_cache() as cache:
        logits = [model.session.step(ids[None, :PROMPT], cache)[0, -1].copy()]
        logits += [
            model.session.step(ids[None, place : place + 1], cache)[0, -1].copy() for place in range(PROMPT, len(ids))
        ]
    return log_probabilities(np.stack(logits))
