"""RMS normalization written in primitives becomes one operator."""

from __future__ import annotations

import onnx_ir as ir

from ...graphs.editing import is_weight, only_used_once, producer, replace, scalar


def fuse_rms_norm(model: ir.Model) -> bool:
    """x / Sqrt(ReduceMean(x ** 2) + epsilon) * weight becomes `SimplifiedLayerNormalization`.

    ONNX Runtime registers that operator in the ONNX domain although ONNX does not know it.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type == "Mul" and (found := _match(node)) is not None:
            hidden, weight, epsilon, old = found
            norm = ir.node(
                "SimplifiedLayerNormalization",
                [hidden, weight],
                {"axis": -1, "epsilon": epsilon, "stash_type": 1},
                name=str(weight.name).removesuffix(".weight"),
            )
            replace(model, old, [norm], {node.outputs[0]: norm.outputs[0]}, after=node)
            changed = True
    return changed


def _match(scaled: ir.Node) -> tuple[ir.Value, ir.Value, float, list[ir.Node]] | None:
    """The input, weight, epsilon and nodes (last first) of the norm that ends in the product `scaled`."""
    normalized, weight = scaled.inputs
    if is_weight(normalized):
        normalized, weight = weight, normalized
    divided = producer(normalized, "Div")
    if weight is None or not is_weight(weight) or divided is None:
        return None
    hidden = divided.inputs[0]
    root = producer(divided.inputs[1], "Sqrt")
    added = producer(root.inputs[0], "Add") if root else None
    mean = producer(added.inputs[0], "ReduceMean") if added else None
    power = producer(mean.inputs[0], "Pow") if mean else None
    if hidden is None or root is None or added is None or mean is None or power is None:
        return None
    epsilon = scalar(added.inputs[1])
    inner = (divided, root, added, mean, power)
    if (
        epsilon is None
        or power.inputs[0] is not hidden
        or scalar(power.inputs[1]) != 2
        or scalar(mean.inputs[1]) != -1
        or not all(only_used_once(node.outputs[0]) for node in inner)
    ):
        return None
    return hidden, weight, epsilon, [scaled, *inner]
