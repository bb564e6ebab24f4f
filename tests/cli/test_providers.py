"""Where a command runs: told once where `auto` chose, and an error of one line where what was named is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import onnxgpt
from onnxgpt.runtime.devices import devices_of
from onnxgpt.runtime.engine import ort

from .conftest import COMMAND, Run

GENERATE = ("generate", "Once upon a time", "--seed", "7", "--max-new-tokens", "8")
NOT_HERE = (
    "error: provider cuda can't run this bundle: "
    'the installed ONNX Runtime has cpu (run `pip uninstall onnxruntime`, then `pip install "onnxgpt[cuda]"`); '
    "there is no NVIDIA driver here; "
    "CUDA's attention takes float16 and bfloat16, and this bundle is float32 (`onnxgpt export SOURCE --target cuda "
    "--out DIR`, then `onnxgpt quantize DIR --out SMALLER` makes one that it can run)\n"
)
RUNNING = "running on cpu (made for cpu in float32)\n"
PEERS = "ONNXGPT_PEERS"
without_cuda = pytest.mark.skipif(
    bool(devices_of("cuda")) or "CUDAExecutionProvider" in ort.get_available_providers(),
    reason="tells what is said on a machine without CUDA, which this one has",
)


def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command with all that it says."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, encoding="utf-8", timeout=120)


@without_cuda
def test_auto_runs_on_the_cpu_and_says_so_once() -> None:
    done = bare(*GENERATE)

    assert done.returncode == 0
    assert done.stderr == RUNNING
    assert done.stdout == bare(*GENERATE, "--provider", "cpu").stdout


def test_a_provider_that_was_asked_for_is_not_told() -> None:
    assert bare(*GENERATE, "--provider", "cpu").stderr == ""


@without_cuda
def test_two_models_of_one_command_are_told_as_one() -> None:
    done = bare(*GENERATE, "--assistant", "fairytale")

    assert (done.returncode, done.stderr) == (0, RUNNING)


@without_cuda
@pytest.mark.parametrize(
    "command",
    [
        GENERATE,
        ("score", "Once upon a time"),
        ("score", "--against", "fairytale"),
        ("classify", "Sun", "--label", "a", "--label", "b"),
        ("bench",),
        ("info",),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_cuda_asked_for_where_it_is_not_is_one_line_and_exit_code_1(command: tuple[str, ...]) -> None:
    done = bare(*command, "--provider", "cuda")

    assert (done.returncode, done.stdout, done.stderr) == (1, "", NOT_HERE)


@pytest.mark.skipif(sys.platform == "win32", reason="has DirectML")
def test_directml_is_told_to_be_of_windows(onnxgpt_command: Run) -> None:
    done = onnxgpt_command(*GENERATE, "--provider", "dml")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "DirectML is part of Windows alone" in done.stderr
    assert 'pip install "onnxgpt[directml]"' in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--provider", "tpu"], 1, "unknown provider 'tpu': expected auto, cpu, cuda, dml"),
        (["--device", "0"], 2, "device has no effect with provider auto: expected provider cuda or dml"),
        (["--device", "-1", "--provider", "cuda"], 2, "--device"),
        (["--cuda-graph", "--provider", "cpu"], 2, "cuda_graph has no effect with provider cpu"),
        (["--provider-option", "use_tf32"], 2, "'use_tf32' is not of the form KEY=VALUE"),
        (["--provider-option", "a=1", "--provider-option", "a=2"], 2, "a was given twice"),
        (["--provider-option", "a=1", "--provider", "cpu"], 2, "provider_options has no effect with provider cpu"),
        (
            ["--provider-option", "gpu_mem_limt=1GB", "--provider", "cuda"],
            2,
            "cuda has no provider option 'gpu_mem_limt': did you mean gpu_mem_limit",
        ),
        (
            ["--provider-option", "use_tf32=yes", "--provider", "cuda"],
            2,
            "provider option use_tf32 is 'yes': expected 0 or 1",
        ),
    ],
)
def test_options_of_devices_are_checked(onnxgpt_command: Run, arguments: list[str], status: int, message: str) -> None:
    done = onnxgpt_command(*GENERATE, *arguments)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert message in done.stderr


@without_cuda
def test_info_tells_where_and_why_and_how_many_nodes(onnxgpt_command: Run) -> None:
    done = onnxgpt_command("info", "--json")
    found = json.loads(done.stdout)

    assert done.stderr == ""
    assert found["provider"] == {
        "name": "cpu",
        "reason": "made for cpu in float32",
        "device": None,
        "fallen_back": {},
    }
    assert list(found["nodes"]) == ["CPUExecutionProvider"]
    rows = dict(line.split(None, 1) for line in onnxgpt_command("info").stdout.splitlines())
    assert rows["provider"] == "cpu (made for cpu in float32)"
    assert rows["nodes"] == f"{found['nodes']['CPUExecutionProvider']} on CPUExecutionProvider"
    named = json.loads(onnxgpt_command("info", "--json", "--provider", "cpu").stdout)
    assert named["provider"]["reason"] == "asked for"


@pytest.mark.slow
@pytest.mark.skipif(bool(devices_of("cuda")), reason="tells what is said without a CUDA device, and here is one")
def test_the_cuda_build_without_a_device_says_so_and_nothing_else(tmp_path: Path) -> None:
    """ONNX Runtime itself would run on the CPU and complain on stderr over several lines."""
    peers = os.environ.get(PEERS)
    python = Path(peers or ".") / "gpu" / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not peers or not python.exists():
        pytest.skip(f"{PEERS} names no directory with an environment gpu, which has onnxruntime-gpu: see .ci/run")
    (tmp_path / "onnxgpt").symlink_to(Path(onnxgpt.__file__).parent)  # and nothing else of this environment
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [python, "-m", "onnxgpt", *arguments], capture_output=True, encoding="utf-8", env=environment, cwd=tmp_path
        )
        return done.returncode, done.stdout, done.stderr

    status, text, complaint = run(*GENERATE, "--provider", "cpu")
    assert (status, complaint) == (0, "")
    assert run(*GENERATE) == (0, text, RUNNING)
    start, _, rest = NOT_HERE.partition("the installed ONNX Runtime has cpu ")
    assert run(*GENERATE, "--provider", "cuda") == (1, "", start + rest.partition("); ")[2])
    assert json.loads(run("info", "--json")[1])["nodes"].keys() == {"CPUExecutionProvider"}
