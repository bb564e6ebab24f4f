"""What the other rewrites leave behind goes, and nodes get the names of the matrices that they multiply by."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


def remove_leftovers(model: ir.Model) -> bool:
    """Remove unread nodes and initializers and unused operator sets; name products after their weights."""
    graph = model.graph
    before = (len(graph), len(graph.initializers))
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        graph.initializers.pop(name)
    for name, value in graph.initializers.items():
        uses = tuple(value.uses())
        if name.endswith(".weight") and len(uses) == 1:
            uses[0].node.name = name.removesuffix(".weight")
    common.TopologicalSortPass()(model)
    return (len(graph), len(graph.initializers)) != before
