"""The benchmark of GPUs, run whole with tiny sizes on the CPU: it measures nothing there, but all of it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu"), "--provider", "cpu", "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_contestant_runs_in_every_round(result: dict[str, Any]) -> None:
    speeds = result["checkpoint"]["tokens_per_second"]
    first, *ours = speeds

    assert first.startswith("PyTorch")
    assert ours == ["float16", "int8", "int4"]
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in speeds.values())


def test_ratios_are_to_pytorch_of_the_same_round(result: dict[str, Any]) -> None:
    found = result["checkpoint"]
    first = next(iter(found["tokens_per_second"]))
    base = np.array(found["tokens_per_second"][first])

    for name, ratio in found["speed_beside_pytorch"].items():
        expected = np.median(np.array(found["tokens_per_second"][name]) / base)
        assert ratio == pytest.approx(expected, rel=0.02)  # speeds are printed rounded


def test_smaller_weights_are_fewer_bytes_for_a_token(result: dict[str, Any]) -> None:
    read = {name: bound["bytes_per_token"] for name, bound in result["checkpoint"]["bound"].items()}

    assert read["float16"] > read["int8"] > read["int4"] > 0
    assert result["copy_bytes_per_second"] > 0


def test_the_random_model_and_the_memory_are_told(result: dict[str, Any]) -> None:
    assert result["random GPT-2"]["parameters"] > 100_000
    assert set(result["random GPT-2"]["bound"]) == {"float16"}
    assert {growth["tokens"] for growth in result["checkpoint"]["memory_growth"].values()} == {200}


def test_without_a_gpu_it_says_so_at_once() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu"), "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "PyTorch sees no CUDA device here" in done.stderr
