from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from onnxgpt.export.passes.rms_norm import fuse_rms_norm


def rms_norm(tools, outputs=("y",), *, power=2.0, axis=-1, swapped=False):
    product = ["weight", "divided"] if swapped else ["divided", "weight"]
    nodes = [
        helper.make_node("Pow", ["x", "two"], ["power"]),
        helper.make_node("ReduceMean", ["power", "axis"], ["mean"], keepdims=1),
        helper.make_node("Add", ["mean", "epsilon"], ["added"]),
        helper.make_node("Sqrt", ["added"], ["root"]),
        helper.make_node("Div", ["x", "root"], ["divided"]),
        helper.make_node("Mul", product, ["y"]),
    ]
    weights = {
        "two": np.array(power, np.float32),
        "axis": np.array([axis], np.int64),
        "epsilon": np.array(1e-3, np.float32),
        "weight": tools.sample(8),
    }
    return tools.build(nodes, outputs, weights)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_primitives_become_one_operator(tools, rewritten, swapped) -> None:
    assert rewritten(rms_norm(tools, swapped=swapped), fuse_rms_norm) == {"SimplifiedLayerNormalization": 1}


def test_what_someone_else_reads_stays(tools, untouched) -> None:
    untouched(rms_norm(tools, outputs=("y", "root")), fuse_rms_norm)


@pytest.mark.parametrize("changes", [{"power": 3.0}, {"axis": 1}])
def test_another_formula_stays(tools, untouched, changes) -> None:
    untouched(rms_norm(tools, **changes), fuse_rms_norm)
