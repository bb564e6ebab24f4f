"""Nodes beside their operators' definitions: which argument is which, and what types these make of a graph's values.

ONNX's own shape inference knows nothing of ONNX Runtime's operators, so it stops at the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx.defs
import onnx_ir as ir

Types = dict[ir.Value, str]  # "float", "float16", "int64", … as operators' definitions name them


@dataclass(frozen=True)
class Formal:
    """An input or output as the operator defines it."""

    name: str
    type: str  # a constraint's name, or "tensor(int64)"
    variadic: bool = False


@dataclass(frozen=True)
class Signature:
    """One version of an operator."""

    since_version: int
    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]


@dataclass(frozen=True)
class Argument:
    """An input that is given, or an output that is made."""

    index: int
    formal: Formal
    value: ir.Value


def onnx_signature(name: str, opset: int) -> Signature | None:
    """An operator of ONNX itself as a model of this opset means it."""
    if not onnx.defs.has(name, opset):
        return None
    schema = onnx.defs.get_schema(name, opset)
    fixed = {each.type_param_str: each.allowed_type_strs[0] for each in schema.type_constraints
             if len(each.allowed_type_strs) == 1}  # fmt: skip
    return Signature(schema.since_version, _formals(schema.inputs, fixed), _formals(schema.outputs, fixed))


def documented_signature(inputs: Sequence[str], outputs: Sequence[str]) -> Signature:
    """An operator that ONNX Runtime's documentation defines: "query:T", "position_ids:tensor(int64)", …"""
    return Signature(1, tuple(map(_documented, inputs)), tuple(map(_documented, outputs)))


def _documented(text: str) -> Formal:
    name, _, kind = text.partition(":")
    return Formal(name, kind)


def _formals(parameters: Sequence[Any], fixed: Mapping[str, str]) -> tuple[Formal, ...]:
    """Constraints that leave a single type, as of comparisons' results, are that type."""
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    return tuple(
        Formal(each.name, fixed.get(each.type_str, each.type_str), each.option == variadic) for each in parameters
    )


def most(formals: Sequence[Formal]) -> int | None:
    """How many arguments there may be; None: any number."""
    return None if formals and formals[-1].variadic else len(formals)


def arguments(values: Sequence[ir.Value | None], formals: Sequence[Formal]) -> list[Argument]:
    """Inputs or outputs beside what they are in the definition, without those that are left out or too many."""
    limit = most(formals)
    return [
        Argument(index, formals[min(index, len(formals) - 1)], value)
        for index, value in enumerate(values)
        if value is not None and value.name != "" and (limit is None or index < limit)
    ]


def known_types(graph: ir.Graph) -> Types:
    """The types of the graph's inputs and initializers."""
    values = (*graph.inputs, *graph.initializers.values())
    return {value: type_name(value.dtype) for value in values if value.dtype is not None}


def type_name(dtype: ir.DataType) -> str:
    """As operators' definitions name it: "float", "int64"."""
    return dtype.name.lower()


def bound_types(node: ir.Node, signature: Signature, types: Mapping[ir.Value, str]) -> dict[str, set[str]]:
    """The types that the inputs give to each constraint of the definition."""
    bound: dict[str, set[str]] = {}
    for each in arguments(node.inputs, signature.inputs):
        if each.value in types:
            bound.setdefault(each.formal.type, set()).add(types[each.value])
    return bound


def output_types(
    node: ir.Node, signature: Signature, bound: Mapping[str, set[str]]
) -> Iterator[tuple[Argument, str | None]]:
    """Each output and its type; None where neither the definition nor an attribute tells it."""
    for each in arguments(node.outputs, signature.outputs):
        if each.formal.type.startswith("tensor("):
            yield each, each.formal.type.removeprefix("tensor(").removesuffix(")")
        elif len(bound.get(each.formal.type, ())) == 1:
            yield each, next(iter(bound[each.formal.type]))
        else:
            yield each, _told_by_attribute(node)


def _told_by_attribute(node: ir.Node) -> str | None:
    if "to" in node.attributes:  # Cast
        return type_name(ir.DataType(node.attributes.get_int("to", 0)))
    if "value" in node.attributes:  # Constant, ConstantOfShape
        return type_name(node.attributes["value"].as_tensor().dtype)
    return {"ConstantOfShape": "float", "QuantizeLinear": "uint8"}.get(node.op_type)
