"""The recipe int8-static: QuantizeLinear and DequantizeLinear around products, with ranges found in advance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from .columns import ColumnMatrix, input_scale
from .layerwise import Changes
from .plain_graph import codes_of, initializer, replace_matrices, row_magnitude_nodes, scales_of
from .recipe import Record


def quantize_around_products(model: ir.Model, records: Sequence[Record], changes: Changes[ColumnMatrix]) -> None:
    """Every product by a matrix gets both of its inputs from 8-bit codes, which backends fuse with it."""
    replace_matrices(model, records, changes, _product)


def _product(model: ir.Model, value: ir.Value, name: str, matrix: ColumnMatrix) -> list[ir.Node]:
    new: list[ir.Node] = []
    if matrix.by_row:
        new = row_magnitude_nodes(model, value)
        largest = new[-1].outputs[0]
        new.append(ir.node("Div", [value, largest]))
        value = new[-1].outputs[0]
    if matrix.input_range is not None:
        number, offset = input_scale(*matrix.input_range)
        scale = initializer(model, f"{name}.input_scale", np.asarray(number))
        zero = initializer(model, f"{name}.input_zero", np.asarray(offset))
        codes = ir.node("QuantizeLinear", [value, scale, zero])
        new += [codes, ir.node("DequantizeLinear", [codes.outputs[0], scale, zero])]
        value = new[-1].outputs[0]
    zeros = initializer(model, f"{name}.zeros", np.zeros(len(matrix.scales), np.int8))
    weights = ir.node(
        "DequantizeLinear", [codes_of(model, name, matrix), scales_of(model, name, matrix), zeros], {"axis": 1}
    )
    new += [weights, ir.node("MatMul", [value, weights.outputs[0]])]
    if matrix.by_row:
        new.append(ir.node("Mul", [new[-1].outputs[0], largest]))
    return new
