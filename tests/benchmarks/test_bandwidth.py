"""The native read test, the bytes that a graph reads per step, and the reading of profiles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from bandwidth.graph_bytes import StepBytes, step_bytes
from bandwidth.native import BandwidthError, ReadTest
from bandwidth.step_profile import Profile, read_profile
from onnx import TensorProto, helper

ROOT = Path(__file__).parents[2]
linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the native read test is for Linux: barriers of POSIX threads, madvise"
)
HAS_COMPILER = bool(os.environ.get("CC") or any(shutil.which(name) for name in ("cc", "gcc", "clang")))


@linux_only
def test_the_read_test_measures_or_says_that_it_needs_a_compiler() -> None:
    if not HAS_COMPILER:
        with pytest.raises(BandwidthError, match="no C compiler"):
            ReadTest()
        return
    with ReadTest() as test:
        found = test.run(2, mebibytes=8, passes=3)
        with pytest.raises(BandwidthError, match="usage"):
            test.run(0)
        program = test._program

    assert found.instructions in ("AVX-512", "AVX2", "scalar")
    assert len(found.passes) == 3
    # Slower than any memory of this century, faster than any cache: a time that stands still or a loop left out shows.
    assert all(1e8 < speed < 1e13 for speed in found.passes)
    assert found.typical <= found.best
    assert not program.exists()


@linux_only
def test_a_compiler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", f"{sys.executable} -c raise(SystemExit('no-header'))")

    with pytest.raises(BandwidthError, match="could not be compiled: no-header"):
        ReadTest()


def test_tables_that_are_only_looked_up_are_not_read(tmp_path: Path) -> None:
    def weight(name: str, *shape: int, kind: int = TensorProto.FLOAT) -> TensorProto:
        return helper.make_tensor(name, kind, shape, [0] * int(np.prod(shape)))

    nodes = [
        helper.make_node("Gather", ["positions", "ids"], ["p"]),
        helper.make_node("Gather", ["tied", "ids"], ["t"]),
        helper.make_node("MatMul", ["t", "head"], ["l"]),
        helper.make_node("Add", ["l", "bias"], ["m"]),
        helper.make_node("MatMulNBits", ["m", "packed", "scales"], ["n"], domain="com.microsoft"),
        helper.make_node("Transpose", ["tied"], ["unused"]),
    ]
    weights = [
        weight("positions", 100, 4),
        weight("tied", 10, 4),
        weight("head", 4, 8),
        weight("bias", 8),
        weight("packed", 6, 1, 16, kind=TensorProto.UINT8),
        weight("scales", 6),
        weight("nobody", 1000),
    ]
    graph = helper.make_graph(nodes, "g", [], [], weights)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), path)

    products = 4 * 8 * 4 + 6 * 16 + 6 * 4
    assert step_bytes(path) == StepBytes(products, products + 8 * 4 + 10 * 4 * 4)


def test_a_step_of_the_embedded_model_reads_all_but_the_positions() -> None:
    bundle = ROOT / "models" / "fairytale" / "bundle"
    found = step_bytes(bundle / "model.onnx")

    assert 0 < found.products < found.all
    assert found.all < sum(file.stat().st_size for file in bundle.glob("model.onnx*"))


def test_a_profile_counts_the_last_runs_only() -> None:
    def run(start: int, duration: int, *kernels: tuple[str, int]) -> list[dict[str, object]]:
        events: list[dict[str, object]] = [{"name": "model_run", "ts": start, "dur": duration}]
        at = start + 1
        for operator, took in kernels:
            events.append({"name": f"{operator}_kernel_time", "ts": at, "dur": took, "args": {"op_name": operator}})
            at += took
        return events

    prefill = run(0, 1000, ("MatMul", 900))
    steps = run(2000, 100, ("MatMul", 40), ("MatMul", 30), ("Add", 5)) + run(3000, 120, ("MatMul", 80), ("Add", 7))

    found = read_profile(steps + prefill, steps=2)

    assert found == Profile({"MatMul": pytest.approx(75e-6), "Add": pytest.approx(6e-6)}, pytest.approx(110e-6))
    assert list(found.operators) == ["MatMul", "Add"]


@linux_only
def test_the_command_reports_the_bound_of_a_bundle() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "bandwidth"), "fairytale"]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(
        [*command, "--rounds", "1", "--steps", "4", "--threads", "1"], capture_output=True, text=True, env=variables
    )

    if not HAS_COMPILER:
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("bandwidth: no C compiler")
        return
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    bound = found["bandwidth_bytes_per_second"] / (found["weight_bytes_per_token"] + found["cache_bytes_per_token"])
    assert found["bound_tokens_per_second"] == pytest.approx(bound)
    assert found["step_share_of_bound"] == pytest.approx(found["tokens_per_second"] / bound)
    assert sum(found["operator_seconds"].values()) < found["profiled_run_seconds"]
    assert 0 < found["products_seconds"] < found["step_seconds"]
