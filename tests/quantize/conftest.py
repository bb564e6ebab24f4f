"""The embedded model with its matrices rounded to bfloat16, and the same model in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from onnxgpt.loading import find_bundle
from onnxgpt.runtime.bundle import Bundle

from .damaged import damaged_fairytale, round_to_bfloat16


@pytest.fixture(scope="session")
def fairytale_bundle() -> Bundle:
    return Bundle.open(find_bundle("fairytale"))


@pytest.fixture(scope="session")
def rounded_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return damaged_fairytale(tmp_path_factory.mktemp("rounded") / "bundle", round_to_bfloat16)


def _read_by_transformers() -> Any:
    checkpoint = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint"
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def fairytale_in_transformers() -> Any:
    return _read_by_transformers()


@pytest.fixture(scope="session")
def rounded_in_transformers() -> Any:
    model = _read_by_transformers()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(parameter.bfloat16().float())
    return model
