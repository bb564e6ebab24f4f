"""`onnxgpt export`: a bundle or nothing, whatever happens on the way; `verify --against` proves it again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxgpt.runtime.bundle import Bundle

from .conftest import COMMAND, Run

CHECKPOINT = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint"


def test_export_makes_a_bundle_that_generates_and_can_be_proven_again(onnxgpt_command: Run, tmp_path: Path) -> None:
    done = onnxgpt_command("export", str(CHECKPOINT), "--out", "bundle", timeout=300)

    assert (done.returncode, done.stdout) == (0, "bundle\n")
    assert "the same as torch" in done.stderr
    assert done.stderr.count("\n") == 1  # quiet where stderr is no terminal
    Bundle.open(tmp_path / "bundle").verify_hashes()
    assert onnxgpt_command("generate", "Once", "--model", "bundle", "--max-new-tokens", "4").returncode == 0

    again = onnxgpt_command("export", str(CHECKPOINT), "--out", "bundle")
    assert (again.returncode, again.stdout) == (1, "")
    assert "bundle exists already" in again.stderr

    proven = onnxgpt_command("verify", "bundle", "--against", str(CHECKPOINT), timeout=300)
    assert proven.returncode == 0
    assert "the same as torch" in proven.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nothing/here/at-all", "--out", "x"], 1, "nothing/here/at-all"),
        (["empty", "--out", "x"], 1, "empty"),
        ([str(CHECKPOINT), "--out", "x", "--dtype", "bfloat16"], 2, "cpu has no bfloat16 kernels"),
        ([str(CHECKPOINT), "--out", "x", "--target", "cuda", "--dtype", "float32"], 2, "--operators standard"),
        ([str(CHECKPOINT), "--out", "x", "--target", "npu"], 2, "'npu' is not one of"),
        ([str(CHECKPOINT), "--out", "x", "--target", "dml", "--via", "optimum"], 2, "--target has no effect"),
        ([str(CHECKPOINT), "--out", "x", "--operators", "fast"], 2, "'fast' is not one of"),
    ],
    ids=[
        "no such source",
        "empty directory",
        "bfloat16",
        "float32 on cuda",
        "target",
        "target of optimum",
        "operators",
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(
    onnxgpt_command: Run, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    done = onnxgpt_command("export", *arguments)

    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_killed_in_the_middle_leaves_no_bundle_and_the_next_run_succeeds(onnxgpt_command: Run, tmp_path: Path) -> None:
    command = [*COMMAND, "export", str(CHECKPOINT), "--out", "bundle"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        # In the middle: the weights are being written, the proof is still to come.
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".bundle.*.partial/model.onnx*")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)

    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "bundle").exists()
    assert list(tmp_path.glob(".bundle.*.partial"))

    done = onnxgpt_command("export", str(CHECKPOINT), "--out", "bundle", timeout=300)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    Bundle.open(tmp_path / "bundle").verify_hashes()
