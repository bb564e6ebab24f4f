from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from onnxgpt.export.passes.last_logits import keep_last_logits
from onnxgpt.export.passes.tied_head import multiply_by_stored_embedding_standard


def with_head(tools, *, bias: bool, tied: bool):
    nodes = [helper.make_node("Relu", ["x"], ["hidden"])]
    if tied:
        nodes.append(helper.make_node("Transpose", ["matrix"], ["turned"], perm=[1, 0]))
    product = "product" if bias else "logits"
    nodes.append(helper.make_node("MatMul", ["hidden", "turned" if tied else "matrix"], [product]))
    if bias:
        nodes.append(helper.make_node("Add", ["product", "bias"], ["logits"]))
    weights = {"matrix": tools.sample(*((5, 8) if tied else (8, 5))), "bias": tools.sample(5)}
    model = tools.build(nodes, ["logits"], weights)
    if tied:
        assert multiply_by_stored_embedding_standard(model)
    return model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_default_keeps_all(tools, rewritten, bias, tied) -> None:
    left = rewritten(with_head(tools, bias=bias, tied=tied), keep_last_logits)
    assert left["Slice"] == left["Neg"] == 1


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_so_many_last_positions_are_kept(tools, count, tied) -> None:
    model = with_head(tools, bias=True, tied=tied)
    x = tools.sample(2, 3, 8)
    (whole,) = tools.run(model, {"x": x})
    assert keep_last_logits(model)
    (kept,) = tools.run(model, {"x": x, "num_logits_to_keep": np.array([count], np.int64)})
    np.testing.assert_allclose(kept, whole[:, -count:], atol=1e-6)


def test_a_graph_without_logits_stays(tools, untouched) -> None:
    untouched(tools.build([helper.make_node("Relu", ["x"], ["y"])], ["y"], {}), keep_last_logits)
