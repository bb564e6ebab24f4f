"""GELU and the bias before it in one operator."""

from __future__ import annotations

import onnx_ir as ir

from ...graphs.editing import CONTRIB, is_weight, only_used_once, producer, replace


def fuse_bias_gelu(model: ir.Model) -> bool:
    """Gelu(x + bias) becomes `BiasGelu`, or `FastGelu` with a bias for the tanh form."""
    return _fuse(model, has_tanh=True)


def fuse_erf_bias_gelu(model: ir.Model) -> bool:
    """The same of the erf form alone, for kernels that know no other."""
    return _fuse(model, has_tanh=False)


def _fuse(model: ir.Model, *, has_tanh: bool) -> bool:
    changed = False
    for node in list(model.graph):
        added = producer(node.inputs[0], "Add") if node.op_type == "Gelu" else None
        if added is None or not only_used_once(added.outputs[0]):
            continue
        hidden, bias = added.inputs
        if is_weight(hidden):
            hidden, bias = bias, hidden
        if not is_weight(bias):
            continue
        tanh = node.attributes.get_string("approximate", "none") == "tanh"
        if tanh and not has_tanh:
            continue
        fused = ir.node("FastGelu" if tanh else "BiasGelu", [hidden, bias], domain=CONTRIB)
        replace(model, [node, added], [fused], {node.outputs[0]: fused.outputs[0]}, after=node)
        changed = True
    return changed
