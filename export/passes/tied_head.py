"""A tied head multiplies by the token embedding as it is stored, so that no transposed copy of it is made."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ...graphs.editing import CONTRIB, integers, producer, replace


def multiply_by_stored_embedding(model: ir.Model) -> bool:
    """x @ Transpose(W) becomes `FusedMatMul` with transB, of ONNX Runtime."""

    def build(hidden: ir.Value, weight: ir.Value, result: ir.Value) -> list[ir.Node]:
        return [ir.node("FusedMatMul", [hidden, weight], {"transB": 1}, domain=CONTRIB, outputs=[result])]

    return _rewrite(model, build)


def multiply_by_stored_embedding_standard(model: ir.Model) -> bool:
    """x @ Transpose(W) becomes `Gemm` with transB, of the ONNX domain, on rows: Gemm knows two dimensions only."""

    def build(hidden: ir.Value, weight: ir.Value, result: ir.Value) -> list[ir.Node]:
        vocabulary, width = weight.shape.numpy()  # type: ignore[union-attr]
        rows_shape = integers(model, "head.rows_shape", [-1, width])
        size = integers(model, "head.vocabulary", [vocabulary])
        rows = ir.node("Reshape", [hidden, rows_shape])
        product = ir.node("Gemm", [rows.outputs[0], weight], {"transB": 1})
        leading = ir.node("Shape", [hidden], {"start": 0, "end": 2})
        shape = ir.node("Concat", [leading.outputs[0], size], {"axis": 0})
        last = ir.node("Reshape", [product.outputs[0], shape.outputs[0]], outputs=[result])
        return [rows, product, leading, shape, last]

    return _rewrite(model, build)


def _rewrite(model: ir.Model, build: Callable[[ir.Value, ir.Value, ir.Value], list[ir.Node]]) -> bool:
    changed = False
    for node in list(model.graph):
        transpose = producer(node.inputs[1], "Transpose") if node.op_type == "MatMul" else None
        if transpose is None or node.inputs[0] is None:
            continue
        weight = transpose.inputs[0]
        if (
            weight is None
            or not weight.is_initializer()
            or transpose.attributes.get_ints("perm", ()) not in ([1, 0], (1, 0))
        ):
            continue
        result = ir.Value()
        replace(model, [node], build(node.inputs[0], weight, result), {node.outputs[0]: result}, after=node)
        if not transpose.outputs[0].uses():
            model.graph.remove(transpose, safe=True)
        changed = True
    return changed
