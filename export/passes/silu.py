"""x * Sigmoid(alpha * x) in one operator: SiLU with alpha 1, the sigmoid approximation of GELU with 1.702."""

from __future__ import annotations

import onnx_ir as ir

from ...graphs.editing import CONTRIB, only_used_once, other_input, producer, replace, scalar


def fuse_silu(model: ir.Model) -> bool:
    """The product becomes ONNX Runtime's `QuickGelu`, which takes any alpha."""
    changed = False
    for node in list(model.graph):
        if node.op_type == "Mul" and (found := _match(node)) is not None:
            hidden, alpha, old = found
            fused = ir.node("QuickGelu", [hidden], {"alpha": alpha}, domain=CONTRIB)
            replace(model, old, [fused], {node.outputs[0]: fused.outputs[0]}, after=node)
            changed = True
    return changed


def _match(product: ir.Node) -> tuple[ir.Value, float, list[ir.Node]] | None:
    for gate in product.inputs:
        sigmoid = producer(gate, "Sigmoid")
        if gate is None or sigmoid is None or not only_used_once(gate):
            continue
        hidden, argument = other_input(product, gate), sigmoid.inputs[0]
        if hidden is not None and argument is hidden:
            return hidden, 1.0, [product, sigmoid]
        scaled = producer(argument, "Mul")
        if hidden is None or scaled is None or not only_used_once(scaled.outputs[0]) or hidden not in scaled.inputs:
            continue
        alpha = scalar(other_input(scaled, hidden))
        if alpha is not None:
            return hidden, alpha, [product, sigmoid, scaled]
    return None
