"""GELU in operators that DirectML has kernels for: it knows the erf form as ONNX Runtime's own, and no tanh form."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from ...graphs.editing import CONTRIB, add_initializer, replace

_CUBIC = 0.044715  # Hendrycks and Gimpel 2016: gelu(x) ~ x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x ** 3)))


def lower_gelu(model: ir.Model) -> bool:
    """ONNX's Gelu becomes `com.microsoft::Gelu`, the tanh form a sigmoid written out."""
    return _rewrite(model, _contrib_erf)


def lower_gelu_standard(model: ir.Model) -> bool:
    """The same in operators of the ONNX domain alone."""
    return _rewrite(model, _standard_erf)


def _rewrite(model: ir.Model, erf: Callable[[ir.Model, ir.Value], list[ir.Node]]) -> bool:
    nodes = [node for node in model.graph if node.op_type == "Gelu" and not node.domain]
    for node in nodes:
        hidden = node.inputs[0]
        assert hidden is not None
        tanh = node.attributes.get_string("approximate", "none") == "tanh"
        new = _tanh(model, hidden) if tanh else erf(model, hidden)
        replace(model, [node], new, {node.outputs[0]: new[-1].outputs[0]}, after=node)
    return bool(nodes)


def _contrib_erf(model: ir.Model, hidden: ir.Value) -> list[ir.Node]:
    return [ir.node("Gelu", [hidden], domain=CONTRIB)]


def _standard_erf(model: ir.Model, hidden: ir.Value) -> list[ir.Node]:
    """x / 2 * (1 + erf(x / sqrt(2)))."""
    scaled = ir.node("Mul", [hidden, _number(model, "gelu.root", math.sqrt(0.5))])
    bent = ir.node("Erf", [scaled.outputs[0]])
    raised = ir.node("Add", [bent.outputs[0], _number(model, "gelu.one", 1.0)])
    half = ir.node("Mul", [hidden, _number(model, "gelu.half", 0.5)])
    return [scaled, bent, raised, half, ir.node("Mul", [half.outputs[0], raised.outputs[0]])]


def _tanh(model: ir.Model, hidden: ir.Value) -> list[ir.Node]:
    """x * sigmoid(2 u), which is x / 2 * (1 + tanh(u)); ONNX Runtime would put its FastGelu for the latter.

    u is x times (1 + 0.044715 x ** 2) rather than a sum of powers: in float16 the square of a large x is infinite, and
    sigmoid is right at either infinity, where a difference of two would be no number.
    """
    outer = 2 * math.sqrt(2 / math.pi)
    square = ir.node("Mul", [hidden, hidden])
    cubic = ir.node("Mul", [square.outputs[0], _number(model, "gelu.cubic", outer * _CUBIC)])
    slope = ir.node("Add", [cubic.outputs[0], _number(model, "gelu.slope", outer)])
    argument = ir.node("Mul", [hidden, slope.outputs[0]])
    gate = ir.node("Sigmoid", [argument.outputs[0]])
    return [square, cubic, slope, argument, gate, ir.node("Mul", [hidden, gate.outputs[0]])]


def _number(model: ir.Model, name: str, number: float) -> ir.Value:
    """A float32 scalar, made once."""
    found = model.graph.initializers.get(name)
    return found or add_initializer(model, name, ir.tensor(number, ir.DataType.FLOAT, name=name))
