from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from onnxgpt.export.passes.silu import fuse_silu


def gated(tools, alpha: float | None, outputs=("y",)):
    nodes = [] if alpha is None else [helper.make_node("Mul", ["x", "alpha"], ["scaled"])]
    nodes += [
        helper.make_node("Sigmoid", ["x" if alpha is None else "scaled"], ["gate"]),
        helper.make_node("Mul", ["x", "gate"], ["y"]),
    ]
    return tools.build(nodes, outputs, {} if alpha is None else {"alpha": np.array(alpha, np.float32)})


@pytest.mark.parametrize("alpha", [None, 1.702])
def test_the_product_with_its_sigmoid_becomes_one_operator(tools, rewritten, alpha) -> None:
    model = gated(tools, alpha)
    assert rewritten(model, fuse_silu) == {"QuickGelu": 1}
    assert next(iter(model.graph)).attributes.get_float("alpha") == pytest.approx(alpha or 1.0)


def test_a_sigmoid_of_something_else_stays(tools, untouched) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["other"]),
        helper.make_node("Sigmoid", ["other"], ["gate"]),
        helper.make_node("Mul", ["x", "gate"], ["y"]),
    ]
    untouched(tools.build(nodes, ["y"], {}), fuse_silu)


def test_a_sigmoid_that_someone_else_reads_stays(tools, untouched) -> None:
    untouched(gated(tools, None, outputs=("y", "gate")), fuse_silu)
