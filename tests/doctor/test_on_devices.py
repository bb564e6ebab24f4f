"""The self-test for devices: the same code on the CPU, its graph against a table of CUDA's kernels, and on devices."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx_ir as ir
import onnxruntime
import pytest

from onnxgpt.doctor import on_devices
from onnxgpt.doctor.on_devices import device_findings, half_bundle, half_findings, product_finding
from onnxgpt.graphs.kernel_check import require_kernels
from onnxgpt.models.catalog import find
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.devices import devices_of


def test_a_product_is_judged() -> None:
    finding = product_finding("cpu")

    assert finding.state == "ok"
    assert 0 < finding.facts["error"] < 1e-5
    assert finding.facts["seconds"] > 0


def test_a_product_on_a_provider_that_is_not_there_is_a_fault() -> None:
    if devices_of("dml"):
        pytest.skip("a DirectML device is here")
    finding = product_finding("dml")

    assert finding.state == "fault"
    assert "a product can't be run: provider dml can't run" in finding.found


def test_a_wrong_product_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_devices, "_WORST_ERROR", 1e-9)
    finding = product_finding("cpu")

    assert finding.state == "fault"
    assert "off numpy's" in finding.found


def test_the_embedded_model_in_half_precision_passes() -> None:
    found = list(half_findings("cpu"))

    assert [(finding.name, finding.state) for finding in found] == [
        (f"self-test on cpu: {what}", "ok") for what in ("parity", "text", "speed")
    ]
    assert found[-1].facts["dtype"] == "float16"


def test_its_graph_has_kernels_on_cuda(tmp_path: Path) -> None:
    bundle = Bundle.open(half_bundle(find("fairytale"), tmp_path / "half", "cuda"))
    bundle.verify_hashes()

    assert (bundle.manifest.graph.target, bundle.manifest.graph.dtype) == ("cuda", "float16")
    require_kernels(ir.load(bundle.graph_path), "cuda", advice="")


def test_without_what_rewrites_graphs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(on_devices, "find_spec", lambda name: None if name == "onnx_ir" else real(name))
    [finding] = half_findings("cuda")

    assert finding.state == "note"
    assert finding.commands == ('pip install "onnxgpt[quantize]"',)


def test_where_there_is_no_device_nothing_is_tested() -> None:
    if any(devices_of(name) for name in ("cuda", "dml")):
        pytest.skip("a device is here")

    assert list(device_findings(["CUDAExecutionProvider", "DmlExecutionProvider", "CPUExecutionProvider"])) == []


@pytest.mark.cuda
def test_cuda_computes_what_pytorch_computes() -> None:
    if not devices_of("cuda") or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip(f"no CUDA device, or no onnxruntime-gpu: {devices_of('cuda').reason}")
    found = list(device_findings(["CUDAExecutionProvider"]))

    assert [(finding.name, finding.state) for finding in found] == [
        (f"self-test on cuda: {what}", "ok") for what in ("product", "parity", "text", "speed")
    ]


@pytest.mark.dml
def test_directml_multiplies() -> None:
    if not devices_of("dml") or "DmlExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip(f"no DirectML device, or no onnxruntime-directml: {devices_of('dml').reason}")

    assert [finding.state for finding in device_findings(["DmlExecutionProvider"])] == ["ok"]
