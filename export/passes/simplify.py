"""Constant folding and common subexpressions: shape arithmetic and position arithmetic once, not once per layer."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxscript.optimizer


def simplify(model: ir.Model) -> bool:
    """Fold what is constant, compute what is equal once, and keep constants as initializers."""
    before = _nodes(model)
    parameters = set(model.graph.initializers)
    common.CommonSubexpressionEliminationPass()(model)  # first, so that folding has less to look at
    # Not optimize(): its pattern rewrites look at every node again and again, minutes for a model of 30 layers.
    onnxscript.optimizer.fold_constants(model)
    common.IdentityEliminationPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _share_constants(model, parameters)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    return _nodes(model) != before


def _share_constants(model: ir.Model, parameters: set[str]) -> None:
    """Keep one of each constant. Parameters stay apart however equal they are, as fresh biases and norms can be."""
    kept: dict[tuple[object, ...], ir.Value] = {}
    for name in [name for name in model.graph.initializers if name not in parameters]:
        value = model.graph.initializers[name]
        if value.const_value is None:
            continue
        tensor = value.const_value
        first = kept.setdefault((tensor.dtype, tuple(tensor.shape), tensor.tobytes()), value)
        if first is not value and not value.is_graph_output():
            ir.convenience.replace_all_uses_with(value, first)
            del model.graph.initializers[name]


def _nodes(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]
