from __future__ import annotations

import pytest
from onnx import helper

from onnxgpt.export.passes.bias_gelu import fuse_bias_gelu


def bias_gelu(tools, approximate: str, outputs=("y",)):
    nodes = [
        helper.make_node("Add", ["x", "bias"], ["sum"]),
        helper.make_node("Gelu", ["sum"], ["y"], approximate=approximate),
    ]
    return tools.build(nodes, outputs, {"bias": tools.sample(8)})


@pytest.mark.parametrize(("approximate", "fused"), [("none", "BiasGelu"), ("tanh", "FastGelu")])
def test_bias_and_gelu_become_one_operator(tools, rewritten, approximate, fused) -> None:
    assert rewritten(bias_gelu(tools, approximate), fuse_bias_gelu) == {fused: 1}


def test_a_sum_that_someone_else_reads_stays(tools, untouched) -> None:
    untouched(bias_gelu(tools, "none", outputs=("y", "sum")), fuse_bias_gelu)


def test_a_gelu_without_a_bias_stays(tools, untouched) -> None:
    untouched(tools.build([helper.make_node("Gelu", ["x"], ["y"])], ["y"], {}), fuse_bias_gelu)
