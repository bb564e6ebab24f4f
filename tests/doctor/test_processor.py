"""Processors as the system tells them, the kernels that ONNX Runtime takes on each, and products really measured."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxgpt.doctor.checkup import checkup
from onnxgpt.doctor.findings import report
from onnxgpt.doctor.processor import Processor, processor_finding, this_processor
from onnxgpt.doctor.product_graph import blockwise_product, float_product
from onnxgpt.doctor.products import ProductTimes, measure_products, products_finding
from onnxgpt.runtime.threads import CpuLimits

LIMITS = CpuLimits(processors=8, cores=4)
# What /proc/cpuinfo says of real processors, cut to a few flags beside those that matter.
CPUINFO = {
    "Sandy Bridge (2011)": "flags\t\t: fpu sse2 sse4_2 avx",
    "Haswell (2013)": "flags\t\t: fpu sse2 fma f16c avx avx2 bmi2",
    "Alder Lake (2021)": "flags\t\t: fpu fma f16c avx avx2 avx_vnni",
    "Skylake-X (2017)": "flags\t\t: fpu fma f16c avx avx2 avx512f avx512dq avx512cd avx512bw avx512vl",
    "Knights Landing (2016)": "flags\t\t: fpu fma f16c avx avx2 avx512f avx512pf avx512er avx512cd",
    "Ice Lake (2019)": "flags\t\t: fpu fma f16c avx avx2 avx512f avx512dq avx512bw avx512vl avx512_vnni",
}
# By platform.cpp of ONNX Runtime 1.31: QNBitGemmDispatch.
KERNELS = {
    "Sandy Bridge (2011)": None,
    "Haswell (2013)": "AVX2",
    "Alder Lake (2021)": "AVX-VNNI",
    "Skylake-X (2017)": "AVX-512",
    "Knights Landing (2016)": "AVX2",
    "Ice Lake (2019)": "AVX-512 VNNI",
}
OLD = Processor("x86_64", "an old one", frozenset({"f16c"}), frozenset({"avx2", "fma", "f16c"}))


def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, text: str) -> Processor:
    """The processor of a Linux machine with such a /proc/cpuinfo."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(text)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    return this_processor(tmp_path)


@pytest.mark.parametrize("name", CPUINFO)
def test_the_kernel_is_the_one_that_onnx_runtime_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"processor\t: 0\nmodel name\t: {name}\n{CPUINFO[name]}\n\nprocessor\t: 1\nflags\t\t: avx2 fma\n"
    processor = told(tmp_path, monkeypatch, "x86_64", text)
    finding = processor_finding(processor, LIMITS)

    assert (processor.name, processor.kernel) == (name, KERNELS[name])
    assert finding.state == ("ok" if KERNELS[name] else "fault")
    assert (KERNELS[name] or "lacks AVX2 and FMA: int8 and int4 will be slow") in finding.found


@pytest.mark.parametrize(
    ("flags", "kernel"),
    [("fp asimd", None), ("fp asimd asimddp", "NEON dot product"), ("asimd asimddp i8mm sve", "NEON i8mm")],
)
def test_arm_processors_too(flags: str, kernel: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = told(tmp_path, monkeypatch, "aarch64", f"processor\t: 0\nFeatures\t: {flags}\nCPU part\t: 0xd0c\n")

    assert (processor.architecture, processor.kernel) == ("arm64", kernel)
    assert ("dot product instructions" in processor_finding(processor, LIMITS).found) == (kernel is None)


def test_what_is_not_told_is_not_taken_for_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = told(tmp_path, monkeypatch, "riscv64", "processor\t: 0\nisa\t: rv64imafdcv\n")
    finding = processor_finding(processor, LIMITS)

    assert finding.state == "ok"
    assert "is not told" in finding.found


def test_threads_and_limits_are_told() -> None:
    line = processor_finding(replace(OLD, features=frozenset({"avx2", "fma"})), CpuLimits(16, 8, 2.0)).found

    assert "8 cores of 16 logical, held to 2 by its control group" in line
    assert "2 threads" in line


def test_an_unsupported_processor_is_a_fault_of_the_checkup() -> None:
    found = report(list(checkup(processor=OLD, selftest=False)))
    finding = next(finding for finding in found["findings"] if finding["name"] == "processor")

    assert not found["healthy"]
    assert finding["state"] == "fault"
    assert finding["commands"] == ("onnxgpt export SOURCE --out DIR",)


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="reads this x86 Linux machine")
def test_the_processor_here_is_read() -> None:
    processor = this_processor()

    assert processor.features == {
        name for name in processor.told if f" {name} " in Path("/proc/cpuinfo").read_text().replace("\n", " \n")
    }


# Products


def test_the_hand_written_graphs_are_onnx() -> None:
    weights = np.arange(6, dtype=np.float32).reshape(3, 2)
    model = onnx.load_from_string(float_product(weights))
    onnx.checker.check_model(model, full_check=True)

    assert np.array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), weights)
    [output] = model.graph.output
    assert [size.dim_param or size.dim_value for size in output.type.tensor_type.shape.dim] == ["rows", 2]
    quants, scales = np.full((300, 2, 32), 200, np.uint8), np.ones((300, 2), np.float32)
    graph = onnx.load_from_string(blockwise_product(quants, scales, bits=8, block_size=32, accuracy_level=4)).graph
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in graph.node[0].attribute}
    assert attributes == {"K": 64, "N": 300, "bits": 8, "block_size": 32, "accuracy_level": 4}
    assert (graph.node[0].op_type, graph.node[0].domain) == ("MatMulNBits", "com.microsoft")


def test_products_are_measured_and_right() -> None:
    times = measure_products()
    finding = products_finding(times, "AVX2")

    assert 0.001 < times.error < 0.02  # it is rounded, and not wrong
    assert finding.facts["int8_speedup"] == times.float_seconds / times.int8_seconds
    assert f"{finding.facts['int8_speedup']:.1f} times as fast" in finding.found


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="another processor may do well with it")
def test_products_without_a_kernel_of_int8_are_noticed() -> None:
    """Asked to compute in float32, ONNX Runtime unpacks the weights every time: what it does without a kernel."""
    times = measure_products(accuracy_level=1)
    finding = products_finding(times, None)

    assert finding.state == "note"
    assert "no kernel of int8 seems to be used" in finding.found


@pytest.mark.parametrize("error", [0.03, float("nan")])
def test_wrong_products_are_a_fault(error: float) -> None:
    assert products_finding(ProductTimes(1.0, 0.5, 0.5, error), None).state == "fault"
