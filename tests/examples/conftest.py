"""The embedded bundle's vectors, and where Node.js and the examples' packages are."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxgpt.export.package import package_bundle

EXAMPLES = Path(__file__).parents[2] / "examples"
BUNDLE = Path(__file__).parents[2] / "models" / "fairytale" / "bundle"


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_bundle(BUNDLE, tmp_path_factory.mktemp("package") / "fairytale").directory


@pytest.fixture(scope="session")
def run_node_tests() -> Callable[..., None]:
    """Run Node's own test runner in a folder of examples."""
    lacking = None if shutil.which("node") else "no Node.js here"
    if not (EXAMPLES / "node_modules").is_dir():
        lacking = lacking or "no packages of the examples here: run npm ci in examples/"
    if lacking and os.environ.get("ONNXGPT_NO_SKIP"):
        pytest.fail(lacking)
    if lacking:
        pytest.skip(lacking)

    def run(folder: str, timeout: float = 170, **env: str) -> None:
        done = subprocess.run(
            ["node", "--test", "test/"],
            cwd=EXAMPLES / folder,
            env=os.environ | {"ONNXGPT_BUNDLE": str(BUNDLE)} | env,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr

    return run
