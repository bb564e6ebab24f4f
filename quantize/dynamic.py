"""The recipe int8-dynamic: integer products whose inputs are rounded as they come, in the ONNX domain alone."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from .columns import ColumnMatrix
from .layerwise import Changes
from .plain_graph import codes_of, replace_matrices, row_magnitude_nodes, scales_of
from .recipe import Record


def multiply_integers(model: ir.Model, records: Sequence[Record], changes: Changes[ColumnMatrix]) -> None:
    """Every product by a matrix becomes DynamicQuantizeLinear, MatMulInteger, Cast, and Mul by the scales."""
    replace_matrices(model, records, changes, _product)


def _product(model: ir.Model, value: ir.Value, name: str, matrix: ColumnMatrix) -> list[ir.Node]:
    new: list[ir.Node] = []
    if matrix.by_row:
        new = row_magnitude_nodes(model, value)
        largest = new[-1].outputs[0]
        new.append(ir.node("Div", [value, largest]))
        value = new[-1].outputs[0]
    rounded = ir.node("DynamicQuantizeLinear", [value], num_outputs=3)
    codes, scale, zero = rounded.outputs
    product = ir.node("MatMulInteger", [codes, codes_of(model, name, matrix), zero])
    number = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
    scales = ir.node("Mul", [scale, scales_of(model, name, matrix)])
    new += [rounded, product, number, scales, ir.node("Mul", [number.outputs[0], scales.outputs[0]])]
    if matrix.by_row:
        new.append(ir.node("Mul", [new[-1].outputs[0], largest]))
    return new
