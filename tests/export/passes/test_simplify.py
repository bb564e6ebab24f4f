from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from onnxgpt.export.passes.cleanup import remove_leftovers
from onnxgpt.export.passes.simplify import simplify


def test_equal_arithmetic_is_done_once_and_constants_are_folded(tools, rewritten) -> None:
    half = numpy_helper.from_array(np.array(0.5, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["half"], value=half),
        helper.make_node("Constant", [], ["also_half"], value=half),
        helper.make_node("Add", ["half", "also_half"], ["one"]),
        helper.make_node("Add", ["x", "one"], ["first"]),
        helper.make_node("Add", ["x", "one"], ["second"]),
        helper.make_node("Mul", ["first", "second"], ["y"]),
    ]
    assert rewritten(tools.build(nodes, ["y"], {}), simplify) == {"Add": 1, "Mul": 1}


def test_leftovers_go_and_products_are_named_after_their_matrices(tools, rewritten) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["unread"]),
        helper.make_node("MatMul", ["x", "blocks.0.mlp.up.weight"], ["y"]),
    ]
    weights = {"blocks.0.mlp.up.weight": tools.sample(8, 4), "unused": tools.sample(3)}
    model = tools.build(nodes, ["y"], weights)
    assert rewritten(model, remove_leftovers) == {"MatMul": 1}
    assert list(model.graph.initializers) == ["blocks.0.mlp.up.weight"]
    assert next(iter(model.graph)).name == "blocks.0.mlp.up"
    assert list(model.opset_imports) == [""]
