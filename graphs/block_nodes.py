"""Products and look-ups of a matrix in blocks, as nodes: ONNX Runtime's MatMulNBits and GatherBlockQuantized.

Neither reads shifts, so a product by a matrix with shifts has a term of its own: (sums of x over each block) @ shifts,
in float32, exactly as stored. Products of one input share its sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ..quantize.blocks import BlockedMatrix
from .editing import CONTRIB, add_initializer, integers, replace

# MatMulNBits' accuracy_level
_FLOAT_ACTIVATIONS = 1
_INT8_ACTIVATIONS = 4  # inputs rounded to 8 bits per block, integer products


def replace_product(
    model: ir.Model, node: ir.Node, name: str, matrix: BlockedMatrix, *, float_activations: bool = False
) -> None:
    """Multiply by blocks instead: x @ W, with its bias when the sum is a node of its own, by one MatMulNBits.

    Args:
        model: is changed.
        node: the product.
        name: of the initializer W; the new initializers' names begin with it.
        matrix: what to put in its place.
        float_activations: multiply in float32; otherwise the inputs are rounded to 8 bits, block by block.
    """
    last, bias = node, None
    uses = list(node.outputs[0].uses())
    if len(uses) == 1 and uses[0].node.op_type == "Add" and not node.outputs[0].is_graph_output():
        other = uses[0].node.inputs[1 - uses[0].idx]
        if other is not None and other.is_initializer() and other.shape == ir.Shape([matrix.columns]):
            last, bias = uses[0].node, other
    zeros = None if matrix.zeros is None else _initializer(model, f"{name}.zeros", matrix.zeros)
    hidden = node.inputs[0]
    assert hidden is not None
    inputs = [hidden, _codes(model, name, matrix), _scales(model, name, matrix)]
    new = [
        ir.node(
            "MatMulNBits",
            _without_trailing([*inputs, zeros, None, bias]),
            product_attributes(matrix, float_activations=float_activations),
            domain=CONTRIB,
            name=node.name,
        )
    ]
    if matrix.shifts is not None:
        sums = _block_sums(model, hidden, matrix)
        term = ir.node("MatMul", [sums, _shifts(model, name, matrix)])
        new += [term, ir.node("Add", [new[0].outputs[0], term.outputs[0]])]
    old = [last] if last is node else [last, node]
    replace(model, old, new, {last.outputs[0]: new[-1].outputs[0]}, after=last)


def product_attributes(matrix: BlockedMatrix, *, float_activations: bool = False) -> dict[str, int]:
    """The attributes of the MatMulNBits that multiplies by a matrix."""
    return {
        "K": matrix.rows,
        "N": matrix.columns,
        "bits": matrix.format.bits,
        "block_size": matrix.format.block_size,
        "accuracy_level": _FLOAT_ACTIVATIONS if float_activations else _INT8_ACTIVATIONS,
    }


def replace_lookup(
    model: ir.Model, node: ir.Node, name: str, matrix: BlockedMatrix, scale: np.ndarray[Any, Any] | None = None
) -> None:
    """W[ids] by GatherBlockQuantized, on the codes that a tied head multiplies by; then the padding is cut off.

    Args:
        model: is changed.
        node: the look-up.
        name: of the initializer W.
        matrix: its transpose [width, rows of W] in blocks, symmetric ones.
        scale: float32 [width] that each row comes out multiplied by, to undo smoothing.
    """
    axis = integers(model, f"{name}.scales_axis", [2])
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
    new = [scales, gathered]
    if matrix.shifts is not None:
        new += _add_shifts(model, name, matrix, ids, gathered.outputs[0])
    new.append(ir.node("Reshape", [new[-1].outputs[0], integers(model, f"{name}.row_shape", [0, 0, -1])]))
    if matrix.rows % matrix.format.block_size:
        zero, width, axis = (
            integers(model, f"{name}.row_{part}", [number])
            for part, number in (("start", 0), ("stop", matrix.rows), ("axis", 2))
        )
        new.append(ir.node("Slice", [new[-1].outputs[0], zero, width, axis]))
    if scale is not None:
        factor = _initializer(model, f"{name}.row_scale", scale)
        new.append(ir.node("Mul", [new[-1].outputs[0], factor]))
    replace(model, [node], new, {node.outputs[0]: new[-1].outputs[0]}, after=node)


def _add_shifts(model: ir.Model, name: str, matrix: BlockedMatrix, ids: ir.Value, rows: ir.Value) -> list[ir.Node]:
    """Add each block's shift to rows [batch, sequence, blocks, block_size] of an embedding."""
    found = ir.node("Gather", [_shifts(model, name, matrix), ids], {"axis": 1})  # [blocks, batch, sequence]
    turned = ir.node("Transpose", [found.outputs[0]], {"perm": [1, 2, 0]})
    wide = ir.node("Unsqueeze", [turned.outputs[0], integers(model, f"{name}.shifts_axis", [3])])
    return [found, turned, wide, ir.node("Add", [rows, wide.outputs[0]])]


def _block_sums(model: ir.Model, hidden: ir.Value, matrix: BlockedMatrix) -> ir.Value:
    """The sums of x [batch, sequence, in] over each block, [batch, sequence, blocks]; one that is there is taken."""
    size = matrix.format.block_size
    shape = integers(model, f"block_sums.shape_{size}", [0, 0, -1, size])
    for reader, _ in hidden.uses():
        if reader.op_type == "Reshape" and reader.inputs[1] is shape:
            ((sums, _),) = reader.outputs[0].uses()
            return sums.outputs[0]
    blocks = ir.node("Reshape", [hidden, shape])
    sums = ir.node("ReduceSum", [blocks.outputs[0], integers(model, "block_sums.axis", [-1])], {"keepdims": 0})
    source = hidden.producer()
    assert source is not None
    model.graph.insert_after(source, [blocks, sums])
    return sums.outputs[0]


def _codes(model: ir.Model, name: str, matrix: BlockedMatrix) -> ir.Value:
    return _initializer(model, f"{name}.codes", matrix.codes)


def _scales(model: ir.Model, name: str, matrix: BlockedMatrix) -> ir.Value:
    return _initializer(model, f"{name}.scales", matrix.scales)


def _shifts(model: ir.Model, name: str, matrix: BlockedMatrix) -> ir.Value:
    """[blocks, columns]: what the sums are multiplied by."""
    assert matrix.shifts is not None
    return _initializer(model, f"{name}.shifts", np.ascontiguousarray(matrix.shifts.T))


def _initializer(model: ir.Model, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """The initializer of that name, made on first use."""
    found = model.graph.initializers.get(name)
    return add_initializer(model, name, ir.tensor(array, name=name)) if found is None else found


def _without_trailing(inputs: list[ir.Value | None]) -> list[ir.Value | None]:
    while inputs[-1] is None:
        inputs = inputs[:-1]
    return inputs
