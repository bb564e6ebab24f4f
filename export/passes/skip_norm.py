"""A residual sum and the norm after it in one operator, with the bias of the projection before it when there is one."""

from __future__ import annotations

import onnx_ir as ir

from ...graphs.editing import CONTRIB, is_weight, only_used_once, producer, replace

_FUSED = {
    "LayerNormalization": "SkipLayerNormalization",
    "SimplifiedLayerNormalization": "SkipSimplifiedLayerNormalization",
}


def fuse_skip_norm(model: ir.Model) -> bool:
    """norm(a + b) becomes a skip-norm, whose fourth output is the sum for whoever else reads it."""
    changed = False
    for node in list(model.graph):
        summed = producer(node.inputs[0], "Add") if node.op_type in _FUSED else None
        if summed is not None and not any(value is None or value.is_initializer() for value in summed.inputs):
            _fuse(model, node, summed)
            changed = True
    return changed


def _fuse(model: ir.Model, norm: ir.Node, summed: ir.Node) -> None:
    skip, hidden = summed.inputs
    assert skip is not None
    assert hidden is not None
    old = [norm, summed]
    bias = None
    biased = _biased_projection(hidden)
    if biased is None and (biased := _biased_projection(skip)) is not None:
        skip, hidden = hidden, skip
    if biased is not None:
        hidden, bias, add = biased
        old.append(add)
    weights = [*norm.inputs[1:], None][:2] if norm.op_type == "LayerNormalization" else [norm.inputs[1]]
    fused = ir.node(
        _FUSED[norm.op_type],
        [hidden, skip, *weights, *([bias] if bias is not None else [])],
        {"epsilon": norm.attributes.get_float("epsilon", 1e-5)},
        domain=CONTRIB,
        num_outputs=4,
        name=norm.name,
    )
    total = summed.outputs[0]
    replaced = {norm.outputs[0]: fused.outputs[0], total: fused.outputs[3]}
    replace(model, old, [fused], replaced, after=summed)
    for index in (1, 2):
        fused.outputs[index].name = ""  # mean and deviation, which nobody reads
    if not fused.outputs[3].uses() and not fused.outputs[3].is_graph_output():
        fused.resize_outputs(1)


def _biased_projection(value: ir.Value) -> tuple[ir.Value, ir.Value, ir.Node] | None:
    """The product, bias and sum that make `value`, when nothing else reads it."""
    add = producer(value, "Add")
    if add is None or not only_used_once(value):
        return None
    product, bias = add.inputs
    if is_weight(product):
        product, bias = bias, product
    if product is None or bias is None or not is_weight(bias) or producer(product, "MatMul") is None:
        return None
    return product, bias, add
