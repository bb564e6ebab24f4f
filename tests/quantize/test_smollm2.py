"""SmolLM2-135M-Instruct in 8 bits: what is lost, and how small it gets."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import onnxgpt
from onnxgpt.export import export_bundle
from onnxgpt.models.catalog import pull
from onnxgpt.runtime.bundle import Bundle

pytestmark = pytest.mark.slow
NAME = "smollm2-135m-instruct"

# A process of its own, with no PyTorch in it.
SCRIPT = """
import json, sys
from onnxgpt.quantize import quantize_bundle

bundle = quantize_bundle(sys.argv[1], sys.argv[2], recipe="int8", threads=2)
found = {"directory": str(bundle.directory), "weights": bundle.weight_bytes, "quality": bundle.manifest.quality}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pull(NAME)
    return export_bundle(NAME, tmp_path_factory.mktemp("smollm2") / "full")


@pytest.fixture(scope="module")
def found(full: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [sys.executable, "-c", SCRIPT, full.directory, tmp_path_factory.mktemp("int8") / "bundle"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=1800)
    return dict(json.loads(done.stdout))


def test_eight_bits_lose_hardly_anything(found: dict[str, Any]) -> None:
    quality = found["quality"]

    assert quality["text"]["name"] == "evaluation.txt"
    assert quality["mean_kl"] <= 0.0030
    assert quality["perplexity_ratio"] <= 1.003
    assert quality["top1_agreement"] >= 0.94


def test_the_weights_are_as_small_as_promised(found: dict[str, Any]) -> None:
    assert found["weights"] <= 152e6


def test_the_chat_model_still_answers(found: dict[str, Any]) -> None:
    model = onnxgpt.load(found["directory"])
    prompt = model.chat_prompt("What is the capital of France?")
    [completion] = model.generate(prompt, do_sample=False, max_new_tokens=20)
    assert completion.text == "The capital of France is Paris."
