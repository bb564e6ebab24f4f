"""The element types of a graph's values, worked out node by node: passes leave the nodes that they make untyped."""

from __future__ import annotations

import onnx_ir as ir

_BOOL = {"And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor"}
_INT64 = {"ArgMax", "ArgMin", "NonZero", "Shape", "Size"}
# Operators whose first output is of the type of another input than the first one.
_OF_INPUT = {"DequantizeLinear": 1, "GatherBlockQuantized": 2, "Where": 1}

Types = dict[ir.Value, ir.DataType]


def value_types(graph: ir.Graph) -> Types:
    """The type of every value of a graph whose nodes are in order.

    An operator that is not named here gives out what its first input is, as nearly all do.
    """
    types: Types = {value: value.dtype for value in graph.inputs if value.dtype is not None}
    types |= {value: value.dtype for value in graph.initializers.values() if value.dtype is not None}
    for node in graph:
        for value, found in zip(node.outputs, _output_types(node, types), strict=False):
            types[value] = found
    return types


def _output_types(node: ir.Node, types: Types) -> list[ir.DataType]:
    """Of a node's outputs in order."""
    kind = node.op_type
    if kind in _BOOL:
        return [ir.DataType.BOOL]
    if kind in _INT64:
        return [ir.DataType.INT64]
    if kind == "Cast":
        return [ir.DataType(node.attributes.get_int("to", int(ir.DataType.FLOAT)))]
    if kind in ("Constant", "ConstantOfShape"):
        value = node.attributes.get("value")
        return [ir.DataType.FLOAT if value is None else value.as_tensor().dtype]
    if kind == "MatMulInteger":
        return [ir.DataType.INT32]
    if kind == "DynamicQuantizeLinear":
        return [ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8]
    if kind == "QuantizeLinear":
        return [_type_of(node, 2, types) if len(node.inputs) > 2 else ir.DataType.UINT8]
    first = _type_of(node, _OF_INPUT.get(kind, 0), types)
    if kind == "TopK":
        return [first, ir.DataType.INT64]
    if kind == "GroupQueryAttention":
        return [first, _type_of(node, 3, types), _type_of(node, 4, types)]
    return [first] * len(node.outputs)


def _type_of(node: ir.Node, index: int, types: Types) -> ir.DataType:
    value = node.inputs[index] if index < len(node.inputs) else None
    return ir.DataType.UNDEFINED if value is None else types.get(value, ir.DataType.UNDEFINED)
