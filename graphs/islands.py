"""Which nodes of a graph in half precision compute in float32: those that half precision overflows or hurts.

It goes by operators, as autocast does, not by models:

- Products by a matrix, the attention and norms that are one operator, and look-ups are computed in half precision: the
  kernels add up in float32 whatever they read (for CUDA's skip-norms, which do so when asked, see `graphs.targets`).
- Softmax, means, sums, powers, exponentials, tanh and the rounding to integers are computed in float32. So are what
  comes of integers alone, as ALiBi's distances, and what has a constant that half precision can't hold: the mask's
  finfo.min, a divisor of 1e-20.
- Sums, products and rearrangements do as their neighbours do: they are in float32 when all that they read is, or all
  that reads them, and quotients when the divisor is. So a norm written out, or the scores of a standard attention with
  their soft cap, is in float32 from end to end. A product of two activations joins in: the scores are float32 sums.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .value_types import Types

_ALWAYS_FLOAT32 = {
    "Abs", "Cos", "DequantizeLinear", "DynamicQuantizeLinear", "Erf", "Exp", "Log", "LogSoftmax", "Pow",
    "QuantizeLinear", "Range", "Reciprocal", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceSum",
    "Round", "Sin", "Softmax", "Sqrt", "Tanh", "TopK",
}  # fmt: skip
# With a wide residual stream: the norms add up a float32 stream, which products and attention read rounded.
_OF_THE_STREAM = {
    "LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
}  # fmt: skip
_AS_NEIGHBOURS = {
    "Add", "Cast", "Clip", "Concat", "Div", "Expand", "Gather", "Identity", "Max", "Min", "Mul", "Neg", "Relu",
    "Reshape", "Sigmoid", "Slice", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
_PRODUCTS = {"FusedMatMul", "Gemm", "MatMul"}
_CONSTANT = 16  # elements: constants of the computation, not weights


def float32_nodes(graph: ir.Graph, types: Types, half: ir.DataType, *, wide_residual: bool = False) -> set[ir.Node]:
    """The nodes that stay float32 when the rest of the graph becomes `half`.

    Args:
        graph: in float32.
        types: of its values.
        half: FLOAT16 or BFLOAT16.
        wide_residual: the residual stream, and so the norms, are in float32 too.
    """
    always = _ALWAYS_FLOAT32 | _OF_THE_STREAM if wide_residual else _ALWAYS_FLOAT32
    nodes = [node for node in graph if _touches_floats(node, types)]
    chosen = {node for node in nodes if node.op_type in always or _is_float32(node, types, half)}
    while True:
        more = {node for node in nodes if node not in chosen and _joins(node, chosen, types)}
        if not more:
            return chosen
        chosen |= more


def _touches_floats(node: ir.Node, types: Types) -> bool:
    values = (*node.inputs, *node.outputs)
    return any(value is not None and types.get(value) == ir.DataType.FLOAT for value in values)


def _is_float32(node: ir.Node, types: Types, half: ir.DataType) -> bool:
    """By itself, whatever its neighbours do."""
    if node.op_type == "Cast" and node.inputs[0] is not None:  # numbers that were integers, distances of positions
        return types.get(node.inputs[0]) != ir.DataType.FLOAT
    if node.op_type in _PRODUCTS:  # which backends fuse with the nodes that make float32 of codes
        return any(_made_of_codes(value) for value in node.inputs)
    return node.op_type in _AS_NEIGHBOURS and any(_unfit(value, half) for value in node.inputs)


def _joins(node: ir.Node, chosen: set[ir.Node], types: Types) -> bool:
    """Whether all that a node reads, or all that reads it, is in float32, and it can be, too."""
    floats = [value for value in node.inputs if value is not None and types.get(value) == ir.DataType.FLOAT]
    computed = [value for value in floats if not value.is_initializer()]
    readers = {use.node for value in node.outputs for use in value.uses()}
    given_out = any(value.is_graph_output() for value in node.outputs)
    read_by_float32 = bool(readers) and readers <= chosen and not given_out
    if node.op_type in _PRODUCTS:
        return read_by_float32 and len(computed) == len(floats)  # not with weights, which are read in half
    if node.op_type not in _AS_NEIGHBOURS:
        return False
    if node.op_type == "Gather" and not computed:  # rows of a table of weights
        return False
    if node.op_type == "Div" and node.inputs[1] in computed and node.inputs[1].producer() in chosen:
        return True
    return read_by_float32 or (bool(computed) and all(value.producer() in chosen for value in computed))


def _made_of_codes(value: ir.Value | None) -> bool:
    maker = None if value is None else value.producer()
    return maker is not None and maker.op_type == "DequantizeLinear"


def _unfit(value: ir.Value | None, half: ir.DataType) -> bool:
    """Whether a constant would become an infinity, or 0, in half precision."""
    tensor = None if value is None or not value.is_initializer() else value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size > _CONSTANT:
        return False
    numbers = tensor.numpy()
    with np.errstate(over="ignore", under="ignore"):
        rounded = numbers.astype(half.numpy()).astype(np.float32)
    return not bool(np.all(np.isfinite(rounded) & ((rounded != 0) == (numbers != 0))))
