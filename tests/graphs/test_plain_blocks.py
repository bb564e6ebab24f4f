"""Blocks spelled out for DirectML compute what they computed before, by the CPU's kernel and by numpy."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxgpt.graphs.kernel_check import require_kernels
from onnxgpt.graphs.plain_blocks import spell_out_blocks
from onnxgpt.quantize.blocks import BlockFormat, quantize_nearest, unpack
from onnxgpt.runtime.errors import ExportError

ROWS, COLUMNS = 96, 12


def product(form: BlockFormat, *, bias: bool) -> tuple[ir.Model, np.ndarray, np.ndarray]:
    """x @ W + b by one MatMulNBits, with W as the blocks mean it and b."""
    generator = np.random.default_rng(5)
    matrix = quantize_nearest(generator.normal(size=(ROWS, COLUMNS)).astype(np.float32), form)
    added = generator.normal(size=COLUMNS).astype(np.float32)
    arrays = {"w.codes": matrix.codes, "w.scales": matrix.scales, "w.zeros": matrix.zeros, "b": added}
    inputs = ["x", "w.codes", "w.scales", "" if matrix.zeros is None else "w.zeros", "", "b" if bias else ""]
    attributes = {"K": ROWS, "N": COLUMNS, "bits": form.bits, "block_size": form.block_size, "accuracy_level": 1}
    node = helper.make_node("MatMulNBits", inputs, ["y"], "the_product", domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, ROWS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, COLUMNS])],
        [
            numpy_helper.from_array(array, name)
            for name, array in arrays.items()
            if name in inputs and array is not None
        ],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    return model, unpack(matrix), added if bias else np.zeros(COLUMNS, np.float32)


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", [BlockFormat(8, 32), BlockFormat(4, 32), BlockFormat(4, 32, symmetric=False)], ids=str)
def test_zeros_are_said_and_the_bias_is_added_outside(form: BlockFormat, bias: bool) -> None:
    model, weights, added = product(form, bias=bias)
    x = np.random.default_rng(6).normal(size=(1, 3, ROWS)).astype(np.float32)
    before = run(model, x)
    if form.symmetric or bias:
        with pytest.raises(ExportError, match="the_product"):
            require_kernels(model, "dml", advice="…")

    assert spell_out_blocks(model)
    require_kernels(model, "dml", advice="…")
    after = run(model, x)

    np.testing.assert_allclose(after, x @ weights + added, rtol=0, atol=2e-5)
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-6)
    assert [node.op_type for node in model.graph] == ["MatMulNBits", "Add"] if bias else ["MatMulNBits"]


def test_a_graph_without_blocks_stays_as_it_is() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([node], "relu", values[:1], values[1:])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))

    assert not spell_out_blocks(model)
    assert len(model.graph) == 1


@pytest.mark.parametrize(("rows", "expected"), [(576, 64), (768, 128), (48, 16), (1000, 128), (8, 128)])
def test_block_sizes_are_lowered_until_no_block_is_padded(rows: int, expected: int) -> None:
    """1000 = 8 * 125 and 8 leave no size that divides them: the format stays, and the table refuses the product."""
    assert BlockFormat(8, 128).dividing(rows) == BlockFormat(8, expected)
