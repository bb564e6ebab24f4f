"""The command line as a user runs it: a process of its own, stdout and stderr apart."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

COMMAND = [sys.executable, "-m", "onnxgpt"]
RUNNING = re.compile(r"\Arunning on cpu \(made for cpu in float32.*\)\n")  # beside a device it says more


@pytest.fixture
def onnxgpt_command(tmp_path: Path) -> Run:
    """Run `onnxgpt ARGUMENTS…` in an empty directory, with an empty stdin unless `stdin` is given.

    The first line on stderr, which says where a float32 bundle runs, is left out here: test_providers.py has it.
    """

    def run(
        *arguments: str, stdin: str = "", env: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            cwd=tmp_path,
            env=os.environ | (env or {}),
        )
        done.stderr = RUNNING.sub("", done.stderr)
        return done

    return run
