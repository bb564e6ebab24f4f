"""GELU as DirectML's kernels allow it, against PyTorch's."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from onnxgpt.export.passes.lower_gelu import lower_gelu, lower_gelu_standard
from onnxgpt.graphs.kernel_check import require_kernels
from onnxgpt.graphs.precision import to_half
from onnxgpt.runtime.errors import ExportError


def gelu(approximate: str) -> ir.Model:
    node = helper.make_node("Gelu", ["x"], ["y"], "the_gelu", approximate=approximate)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "width"]) for name in "xy"]
    graph = helper.make_graph([node], "gelu", values[:1], values[1:])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]


@pytest.mark.parametrize("rewrite", [lower_gelu, lower_gelu_standard])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_it_is_pytorchs_gelu_and_has_kernels(rewrite: object, approximate: str, dtype: str) -> None:
    model = gelu(approximate)
    with pytest.raises(ExportError, match="the_gelu"):
        require_kernels(model, "dml", advice="…")

    assert rewrite(model)  # type: ignore[operator]
    to_half(model, dtype)
    require_kernels(model, "dml", advice="…")
    x = np.linspace(-9, 9, 4001, dtype=np.float32).reshape(1, -1).astype(dtype)
    expected = torch.nn.functional.gelu(torch.tensor(x, dtype=torch.float64), approximate=approximate).numpy()

    tolerance = {"float32": 2e-6, "float16": 4e-3}[dtype]  # half: 2 ** -11 of 9
    np.testing.assert_allclose(run(model, x), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("rewrite", [lower_gelu, lower_gelu_standard])
def test_the_tanh_form_survives_float16s_whole_range(rewrite: object) -> None:
    """Squares overflow from 256 on, and nothing else does: what is far out is passed on or is 0."""
    model = gelu("tanh")
    rewrite(model)  # type: ignore[operator]
    to_half(model, "float16")
    x = np.array([[-65504, -3000, -257, 0, 257, 3000, 65504]], np.float16)

    np.testing.assert_array_equal(run(model, x), np.maximum(x, 0))


@pytest.mark.parametrize("rewrite", [lower_gelu, lower_gelu_standard])
def test_a_graph_without_gelu_stays_as_it_is(rewrite: object) -> None:
    node = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([node], "gelu", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets))

    assert not rewrite(model)  # type: ignore[operator]
