"""Packaged bundles, made once: of the embedded model, and of small random ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onnxgpt.export.package import package_bundle
from onnxgpt.loading import find_bundle
from onnxgpt.runtime.bundle import Bundle


@pytest.fixture(scope="session")
def packaged_fairytale(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return package_bundle(find_bundle("fairytale"), tmp_path_factory.mktemp("packaged") / "fairytale")


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """A bundle of one of the small configurations of tests/export by its name, exported once per session."""
    from onnxgpt.export.pipeline import export_checkpoint
    from onnxgpt.graphs.targets import graph_form

    from ..export.conftest import CONFIGS, checkpoint_of, random_gpt

    made: dict[tuple[str, str], Bundle] = {}

    def make(name: str, operators: str = "fused") -> Bundle:
        if (name, operators) not in made:
            checkpoint = checkpoint_of(random_gpt(**CONFIGS[name]))
            out = tmp_path_factory.mktemp("small") / "bundle"
            made[name, operators] = export_checkpoint(checkpoint, out, form=graph_form(operators=operators))
        return made[name, operators]

    return make
