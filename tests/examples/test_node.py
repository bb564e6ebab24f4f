"""examples/node holds against the vectors, by Node's own test runner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def test_node_passes_its_tests(run_node_tests: Callable[..., None], package: Path) -> None:
    run_node_tests("node", ONNXGPT_PACKAGE=str(package), ONNXGPT_VECTORS=str(package / "vectors.json"))
