"""What the two plain-ONNX recipes share: where matrices are in a graph, and one 8-bit copy for head and embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from ..graphs.editing import add_initializer, integers, replace
from ..runtime.errors import QuantizationError
from .columns import ColumnMatrix
from .layerwise import Changes
from .recipe import Record

# Builds x @ W: (model, x [..., rows], the matrix's name, the matrix) to nodes, the last of which makes the product.
ProductBuilder = Callable[[ir.Model, ir.Value, str, ColumnMatrix], list[ir.Node]]


def replace_matrices(
    model: ir.Model, records: Sequence[Record], changes: Changes[ColumnMatrix], build: ProductBuilder
) -> None:
    """Put 8-bit products and look-ups in place of a graph's own. Biases stay the sums that they are."""
    graph = model.graph
    nodes = {node.name: node for node in graph}
    for name, vector in changes.vectors.items():
        graph.initializers[name].const_value = ir.tensor(vector, name=name)
    for record in records:
        name = record["initializer"]
        matrix = changes.matrices.get(name)
        if matrix is None:
            continue
        node = nodes[record["node"]]
        if record["role"] == "token_embedding":
            _replace_lookup(model, node, name, matrix, changes.embedding_scale)
        else:
            _replace_product(model, node, name, matrix, build)
    for name in changes.matrices:
        if graph.initializers[name].uses():
            raise QuantizationError(f"{name} is still read in full precision: report it with the model's config")
        del graph.initializers[name]


def codes_of(model: ir.Model, name: str, matrix: ColumnMatrix) -> ir.Value:
    """The initializer int8 [rows, columns] of a matrix."""
    return initializer(model, f"{name}.codes", matrix.codes)


def scales_of(model: ir.Model, name: str, matrix: ColumnMatrix) -> ir.Value:
    """The initializer float32 [columns] of a matrix."""
    return initializer(model, f"{name}.scales", matrix.scales)


def initializer(model: ir.Model, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> ir.Value:
    """The initializer of that name, made on first use."""
    found = model.graph.initializers.get(name)
    return add_initializer(model, name, ir.tensor(array, name=name)) if found is None else found


def row_magnitude_nodes(model: ir.Model, value: ir.Value) -> list[ir.Node]:
    """The largest magnitude of each row of [..., width], as [..., 1]; never 0, since it will be divided by."""
    least = initializer(model, "least_magnitude", np.array([1e-20], np.float32))
    magnitudes = ir.node("Abs", [value])
    largest = ir.node("ReduceMax", [magnitudes.outputs[0], integers(model, "last_axis", [-1])], {"keepdims": 1})
    return [magnitudes, largest, ir.node("Max", [largest.outputs[0], least])]


def _replace_product(model: ir.Model, node: ir.Node, name: str, matrix: ColumnMatrix, build: ProductBuilder) -> None:
    """A MatMul, or a Gemm of rows, by a matrix."""
    value = node.inputs[0]
    assert value is not None
    new = build(model, value, name, matrix)
    if node.op_type == "Gemm" and len(node.inputs) > 2:
        new.append(ir.node("Add", [new[-1].outputs[0], node.inputs[2]]))
    new[-1].name = node.name
    replace(model, [node], new, {node.outputs[0]: new[-1].outputs[0]}, after=node)


def _replace_lookup(
    model: ir.Model,
    node: ir.Node,
    name: str,
    matrix: ColumnMatrix,
    factor: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None,
) -> None:
    """W[ids] from the codes [width, vocabulary] that the head multiplies by: a token is a column there."""
    ids = node.inputs[1]
    assert ids is not None
    columns = ir.node("Gather", [codes_of(model, name, matrix), ids], {"axis": 1})  # [width, batch, sequence]
    rows = ir.node("Transpose", [columns.outputs[0]], {"perm": [1, 2, 0]})
    numbers = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
    scales = ir.node("Gather", [scales_of(model, name, matrix), ids], {"axis": 0})  # [batch, sequence]
    wide = ir.node("Unsqueeze", [scales.outputs[0], integers(model, "last_axis", [-1])])
    new = [columns, rows, numbers, scales, wide, ir.node("Mul", [numbers.outputs[0], wide.outputs[0]])]
    if factor is not None:
        new.append(ir.node("Mul", [new[-1].outputs[0], initializer(model, f"{name}.row_scale", factor)]))
    new[-1].name = node.name
    replace(model, [node], new, {node.outputs[0]: new[-1].outputs[0]}, after=node)
