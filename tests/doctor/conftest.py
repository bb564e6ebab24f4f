"""Environments with faults planted in them, and the command run there as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxgpt

SITE_PACKAGES = Path(np.__file__).parents[1]


class Environment:
    """A directory that takes the place of site-packages: the same packages, as links, but what a test leaves out."""

    def __init__(self, directory: Path):
        self.directory = directory
        directory.mkdir()
        for path in SITE_PACKAGES.iterdir():
            if path.name.partition("-")[0].partition("_")[0] != "onnxruntime" and path.name != "onnxgpt":
                (directory / path.name).symlink_to(path)
        (directory / "onnxgpt").symlink_to(Path(onnxgpt.__file__).parent)

    def add(self, pattern: str) -> None:
        """Link what was left out."""
        for path in SITE_PACKAGES.glob(pattern):
            (self.directory / path.name).symlink_to(path)

    def plant_distribution(self, name: str, version: str, files: dict[str, int]) -> None:
        """Metadata as pip leaves it: of a distribution with some files of the package, by their sizes."""
        info = self.directory / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "top_level.txt").write_text("onnxruntime\n")
        rows = [f"{path},sha256=x,{size}\n" for path, size in files.items()]
        (info / "RECORD").write_text("".join(rows) + f"{info.name}/RECORD,,\n")

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Python there: nothing of the real site-packages is on its path but through links."""
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            env=env | {"PYTHONPATH": str(self.directory)} | environment,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )

    def findings(self, **environment: str) -> dict[str, dict[str, Any]]:
        """What `onnxgpt doctor --json` finds there, by name."""
        return read_findings(self.run("-m", "onnxgpt", "doctor", "--json", **environment))


def read_findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The findings by name; the exit code has to say whether there is a fault."""
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["healthy"] else 1), done.stderr
    return {finding["name"]: finding for finding in report["findings"]}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    if sys.platform == "win32":
        pytest.skip("makes environments of symbolic links")
    return Environment(tmp_path / "site")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, not made yet."""
    monkeypatch.setenv("ONNXGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


Doctor = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Run `onnxgpt doctor ARGUMENTS…` in this environment."""

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "onnxgpt", "doctor", *arguments],
            capture_output=True,
            encoding="utf-8",
            cwd=tmp_path,
            timeout=120,
            **options,
        )

    return run
