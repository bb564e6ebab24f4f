"""What several folders of tests share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from onnxgpt.runtime.bundle import Bundle

FAIRYTALE_CHECKPOINT = Path(__file__).parents[1] / "models" / "fairytale" / "checkpoint"


@pytest.fixture(scope="session")
def full_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded model in full precision, exported from its checkpoint once; the package holds it in int8."""
    from onnxgpt.export import export_bundle

    directory = tmp_path_factory.mktemp("full")
    source = shutil.copytree(FAIRYTALE_CHECKPOINT, directory / "source" / "fairytale")  # whose name the bundle gets
    return export_bundle(source, directory / "fairytale")
