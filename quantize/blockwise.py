"""The graph in blocks: products become MatMulNBits, look-ups GatherBlockQuantized, a tied matrix is stored once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ..graphs.editing import CONTRIB, add_initializer, replace
from ..runtime.errors import QuantizationError
from .blocks import BlockedMatrix
from .layerwise import Changes
from .recipe import Record

_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level: inputs rounded to 8 bits per block, integer products


def put_into_blocks(model: ir.Model, records: Sequence[Record], changes: Changes[BlockedMatrix]) -> None:
    """Rewrite the graph by what the quantizer found. Initializers that nobody reads any more are removed."""
    graph = model.graph
    nodes = {node.name: node for node in graph}
    for name, vector in changes.vectors.items():
        graph.initializers[name].const_value = ir.tensor(vector, name=name)
    for record in records:
        matrix = changes.matrices.get(record["initializer"])
        if matrix is None:
            continue
        node = nodes[record["node"]]
        if record["role"] == "token_embedding":
            _replace_lookup(model, node, record["initializer"], matrix, changes.embedding_scale)
        else:
            _replace_product(model, node, record["initializer"], matrix)
    for name in changes.matrices:
        if graph.initializers[name].uses():
            raise QuantizationError(f"{name} is still read in full precision: report it with the model's config")
        del graph.initializers[name]


def _replace_product(model: ir.Model, node: ir.Node, name: str, matrix: BlockedMatrix) -> None:
    """x @ W, with its bias when the sum is a node of its own, by one MatMulNBits."""
    last, bias = node, None
    uses = list(node.outputs[0].uses())
    if len(uses) == 1 and uses[0].node.op_type == "Add" and not node.outputs[0].is_graph_output():
        other = uses[0].node.inputs[1 - uses[0].idx]
        if other is not None and other.is_initializer() and other.shape == ir.Shape([matrix.columns]):
            last, bias = uses[0].node, other
    zeros = None if matrix.zeros is None else _initializer(model, f"{name}.zeros", matrix.zeros)
    inputs = [node.inputs[0], _codes(model, name, matrix), _scales(model, name, matrix)]
    product = ir.node(
        "MatMulNBits",
        _without_trailing([*inputs, zeros, None, bias]),
        product_attributes(matrix),
        domain=CONTRIB,
        name=node.name,
    )
    old = [last] if last is node else [last, node]
    replace(model, old, [product], {last.outputs[0]: product.outputs[0]}, after=last)


def product_attributes(matrix: BlockedMatrix) -> dict[str, int]:
    """The attributes of the MatMulNBits that multiplies by a matrix."""
    return {
        "K": matrix.rows,
        "N": matrix.columns,
        "bits": matrix.format.bits,
        "block_size": matrix.format.block_size,
        "accuracy_level": _INT8_ACTIVATIONS,
    }


def _without_trailing(inputs: list[ir.Value | None]) -> list[ir.Value | None]:
    while inputs[-1] is None:
        inputs = inputs[:-1]
    return inputs


def _replace_lookup(
    model: ir.Model, node: ir.Node, name: str, matrix: BlockedMatrix, scale: np.ndarray[Any, Any] | None
) -> None:
    """W[ids] by GatherBlockQuantized on the same codes, then the padding cut off and the smoothing undone."""
    axis = _initializer(model, f"{name}.scales_axis", np.array([2], np.int64))
    # The operator wants the scales as [rows, blocks, 1].
    scales = ir.node("Unsqueeze", [_scales(model, name, matrix), axis])
    ids = node.inputs[1]
    assert ids is not None
    attributes = {
        "gather_axis": 0,
        "quantize_axis": 2,
        "block_size": matrix.format.block_size,
        "bits": matrix.format.bits,
    }
    gathered = ir.node(
        "GatherBlockQuantized",
        [_codes(model, name, matrix), ids, scales.outputs[0]],
        attributes,
        domain=CONTRIB,
        name=node.name,
    )  # [batch, sequence, blocks, block_size]
    shape = _initializer(model, f"{name}.row_shape", np.array([0, 0, -1], np.int64))
    new = [scales, gathered, ir.node("Reshape", [gathered.outputs[0], shape])]
    if matrix.rows % matrix.format.block_size:
        zero, width, axis = (
            _initializer(model, f"{name}.row_{part}", np.array([number], np.int64))
            for part, number in (("start", 0), ("stop", matrix.rows), ("axis", 2))
        )
        new.append(ir.node("Slice", [new[-1].outputs[0], zero, width, axis]))
    if scale is not None:
        factor = _initializer(model, f"{name}.row_scale", scale)
        new.append(ir.node("Mul", [new[-1].outputs[0], factor]))
    replace(model, [node], new, {node.outputs[0]: new[-1].outputs[0]}, after=node)


def _codes(model: ir.Model, name: str, matrix: BlockedMatrix) -> ir.Value:
    return _initializer(model, f"{name}.codes", matrix.codes)


def _scales(model: ir.Model, name: str, matrix: BlockedMatrix) -> ir.Value:
    return _initializer(model, f"{name}.scales", matrix.scales)


def _initializer(model: ir.Model, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """The initializer of that name, made on first use."""
    found = model.graph.initializers.get(name)
    return add_initializer(model, name, ir.tensor(array, name=name)) if found is None else found
