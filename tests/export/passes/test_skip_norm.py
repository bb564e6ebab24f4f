from __future__ import annotations

import pytest
from onnx import helper

from onnxgpt.export.passes.skip_norm import fuse_skip_norm

TWO = {"x": ["batch", "sequence", 8], "other": ["batch", "sequence", 8]}


def layer_norm(source: str, *, bias: bool = True, output: str = "y"):
    inputs = [source, "scale", "shift"] if bias else [source, "scale"]
    return helper.make_node("LayerNormalization", inputs, [output], epsilon=1e-3, axis=-1)


def feeds(tools):
    return {"x": tools.sample(2, 3, 8), "other": tools.sample(2, 3, 8, seed=1)}


@pytest.mark.parametrize("bias", [True, False])
def test_sum_and_norm_become_one_operator(tools, rewritten, bias) -> None:
    nodes = [helper.make_node("Add", ["x", "other"], ["sum"]), layer_norm("sum", bias=bias)]
    weights = {"scale": tools.sample(8), "shift": tools.sample(8, seed=1)}
    model = tools.build(nodes, ["y"], weights, TWO)
    assert rewritten(model, fuse_skip_norm, **feeds(tools)) == {"SkipLayerNormalization": 1}
    assert len(next(iter(model.graph)).outputs) == 1


@pytest.mark.parametrize("norm", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_the_residual_is_the_fourth_output(tools, rewritten, norm) -> None:
    nodes = [
        helper.make_node("Add", ["x", "other"], ["sum"]),
        helper.make_node(norm, ["sum", "scale"], ["normed"], epsilon=1e-3, axis=-1),
        helper.make_node("Add", ["sum", "normed"], ["y"]),
    ]
    model = tools.build(nodes, ["y"], {"scale": tools.sample(8)}, TWO)
    fused = "Skip" + norm
    assert rewritten(model, fuse_skip_norm, **feeds(tools)) == {fused: 1, "Add": 1}
    assert [bool(value.name) for value in next(iter(model.graph)).outputs] == [True, False, False, True]


@pytest.mark.parametrize("first", [True, False])
def test_the_bias_of_a_projection_goes_in_too(tools, rewritten, first) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "matrix"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["projected"]),
        helper.make_node("Add", ["projected", "other"] if first else ["other", "projected"], ["sum"]),
        layer_norm("sum"),
    ]
    weights = {
        "matrix": tools.sample(8, 8),
        "bias": tools.sample(8, seed=2),
        "scale": tools.sample(8),
        "shift": tools.sample(8, seed=1),
    }
    model = tools.build(nodes, ["y", "sum"], weights, TWO)
    assert rewritten(model, fuse_skip_norm, **feeds(tools)) == {"MatMul": 1, "SkipLayerNormalization": 1}


def test_a_sum_with_a_constant_is_no_residual(tools, untouched) -> None:
    nodes = [helper.make_node("Add", ["x", "bias"], ["sum"]), layer_norm("sum")]
    weights = {"bias": tools.sample(8), "scale": tools.sample(8), "shift": tools.sample(8)}
    untouched(tools.build(nodes, ["y"], weights), fuse_skip_norm)
