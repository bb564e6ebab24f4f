"""Generating opens no socket and needs no network: seen with strace, and in a network namespace with nothing in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import COMMAND, Run

GENERATE = [*COMMAND, "generate", "Once upon a time", "--seed", "7", "--max-new-tokens", "16", "--provider", "cpu"]


def works(*command: str) -> bool:
    """Whether a tool is there and allowed to do its work here."""
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


def network_calls(trace: Path, *command: str) -> list[str]:
    """The system calls on sockets that a command and its threads make."""
    subprocess.run(
        ["strace", "-f", "-e", "trace=network", "-o", str(trace), *command],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return [line for line in trace.read_text(encoding="utf-8", errors="replace").splitlines() if "(" in line]


@pytest.mark.skipif(not works("strace", "-o", "/dev/null", "true"), reason="no strace that may trace here")
def test_generating_opens_no_socket(tmp_path: Path) -> None:
    control = network_calls(tmp_path / "control", sys.executable, "-c", "import socket; socket.socket().close()")

    assert "socket(" in control[0]  # strace would see one
    assert network_calls(tmp_path / "trace", *GENERATE) == []


@pytest.mark.skipif(not works("unshare", "-rn", "true"), reason="no network namespaces here")
def test_generating_needs_no_network(onnxgpt_command: Run) -> None:
    alone = subprocess.run(["unshare", "-rn", *GENERATE], check=True, capture_output=True, timeout=300)

    assert alone.stdout.decode() == onnxgpt_command(*GENERATE[len(COMMAND) :]).stdout
    assert alone.stderr == b""
