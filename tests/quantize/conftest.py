"""The embedded model with its matrices rounded to bfloat16, and the same model in transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from onnxgpt.runtime.bundle import Bundle

from .damaged import damaged_fairytale, round_to_bfloat16

FAIRYTALE_CHECKPOINT = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint"


@pytest.fixture(scope="session")
def fairytale_bundle(full_bundle: Bundle) -> Bundle:
    return full_bundle


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """A bundle of one of the small configurations of tests/export by its name, exported once per session."""
    from onnxgpt.export.pipeline import export_checkpoint
    from onnxgpt.graphs.targets import graph_form

    from ..export.conftest import CONFIGS, checkpoint_of, random_gpt

    made: dict[tuple[str, str], Bundle] = {}

    def make(name: str, operators: str = "fused") -> Bundle:
        if (name, operators) not in made:
            out = tmp_path_factory.mktemp("small") / "bundle"
            made[name, operators] = export_checkpoint(
                checkpoint_of(random_gpt(**CONFIGS[name])), out, form=graph_form(operators=operators)
            )
        return made[name, operators]

    return make


@pytest.fixture(scope="session")
def rounded_bundle(full_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return damaged_fairytale(full_bundle, tmp_path_factory.mktemp("rounded") / "bundle", round_to_bfloat16)


def _read_by_transformers() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(FAIRYTALE_CHECKPOINT, dtype=torch.float32).eval()


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
