"""Constant folding and common subexpressions: shape arithmetic and position arithmetic once, not once per layer."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxscript.optimizer


def simplify(model: ir.Model) -> bool:
    """Fold what is constant, compute what is equal once, and keep constants as initializers."""
    before = _nodes(model)
    common.CommonSubexpressionEliminationPass()(model)  # first, so that folding has less to look at
    # Not optimize(): its pattern rewrites look at every node again and again, minutes for a model of 30 layers.
    onnxscript.optimizer.fold_constants(model)
    common.IdentityEliminationPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    return _nodes(model) != before


def _nodes(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]
