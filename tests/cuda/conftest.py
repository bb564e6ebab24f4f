"""The fairy-tale model for CUDA, and what it runs on: each test of this folder runs on the CPU and on a GPU.

The graph, its types and the code are the same on both, so that what a machine without a GPU can tell is told there too;
a figure that only a GPU has (the bytes on the bus, the device's memory) is looked at only there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

import onnxgpt
from onnxgpt.export import export_bundle
from onnxgpt.quantize import quantize_bundle
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.devices import devices_of
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.model import Model

from ..conftest import FAIRYTALE_CHECKPOINT

EVALUATION = Path(__file__).parents[2] / "quantize" / "texts" / "evaluation.txt"
WINDOW, WINDOWS = 128, 4  # tokens, and how many windows of them


def why_no_cuda() -> str | None:
    """The reason to skip what needs a GPU; None where there is one."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "needs onnxruntime-gpu (pip install onnxgpt[cuda])"
    if not devices_of("cuda"):
        return "needs a CUDA device"
    return None


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def provider(request: pytest.FixtureRequest) -> str:
    """What it runs on."""
    if request.param == "cuda" and (reason := why_no_cuda()):
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture(scope="session")
def float16_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The fairy-tale model exported for CUDA, whose default type is float16."""
    directory = tmp_path_factory.mktemp("float16")
    source = shutil.copytree(FAIRYTALE_CHECKPOINT, directory / "source" / "fairytale")
    return export_bundle(source, directory / "fairytale", target="cuda")


@pytest.fixture(scope="session")
def int8_bundle(float16_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same in 8 bits."""
    return quantize_bundle(float16_bundle.directory, tmp_path_factory.mktemp("int8") / "fairytale", recipe="int8")


@pytest.fixture(scope="session")
def open_model(provider: str) -> Callable[..., Model]:
    """Opens a bundle on the provider."""

    def opened(bundle: Bundle, **options: object) -> Model:
        return onnxgpt.load(bundle.directory, provider=provider, **options)  # type: ignore[arg-type]

    return opened


@pytest.fixture(scope="session")
def model(open_model: Callable[..., Model], float16_bundle: Bundle) -> Model:
    """The float16 bundle on the provider."""
    return open_model(float16_bundle)


@pytest.fixture(scope="session")
def windows(model: Model) -> list[NDArray[np.int64]]:
    """Token ids of a real text, [1, WINDOW] each."""
    ids = model.tokenizer.encode(EVALUATION.read_text(encoding="utf-8"))
    return [np.array([ids[start : start + WINDOW]], np.int64) for start in range(0, WINDOW * WINDOWS, WINDOW)]


@pytest.fixture(scope="session")
def torch_logprobs(provider: str, windows: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """What transformers says of the text, on the same GPU in float32: log-probabilities [tokens, vocabulary]."""
    if provider == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a PyTorch that was built for CUDA")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(FAIRYTALE_CHECKPOINT, dtype=torch.float32)
    reference = loaded.to(provider).eval()
    with torch.inference_mode():
        found = [reference(torch.from_numpy(ids).to(provider)).logits[0].double() for ids in windows]
        return torch.cat(found).log_softmax(-1).cpu().numpy()
