"""The command line as a user runs it: a process of its own, stdout and stderr apart."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

COMMAND = [sys.executable, "-m", "onnxgpt"]


@pytest.fixture
def onnxgpt_command(tmp_path: Path) -> Run:
    """Run `onnxgpt ARGUMENTS…` in an empty directory, with an empty stdin unless `stdin` is given."""

    def run(
        *arguments: str, stdin: str = "", env: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            cwd=tmp_path,
            env=os.environ | (env or {}),
        )

    return run
