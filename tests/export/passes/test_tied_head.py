from __future__ import annotations

import pytest
from onnx import helper

from onnxgpt.export.passes.tied_head import multiply_by_stored_embedding, multiply_by_stored_embedding_standard

FUSED = {"FusedMatMul": 1, "Relu": 1}
STANDARD = {"Reshape": 2, "Gemm": 1, "Shape": 1, "Concat": 1, "Relu": 1}


def tied_head(tools, permutation=(1, 0), shape=(5, 8)):
    nodes = [
        helper.make_node("Relu", ["x"], ["hidden"]),
        helper.make_node("Transpose", ["embedding"], ["matrix"], perm=permutation),
        helper.make_node("MatMul", ["hidden", "matrix"], ["logits"]),
    ]
    return tools.build(nodes, ["logits"], {"embedding": tools.sample(*shape)})


@pytest.mark.parametrize(
    ("graph_pass", "left"), [(multiply_by_stored_embedding, FUSED), (multiply_by_stored_embedding_standard, STANDARD)]
)
def test_the_embedding_is_multiplied_as_it_is_stored(tools, rewritten, graph_pass, left) -> None:
    model = tied_head(tools)
    assert rewritten(model, graph_pass) == left
    assert model.graph.initializers["embedding"].shape == (5, 8)


def test_another_permutation_stays(tools, untouched) -> None:
    untouched(tied_head(tools, permutation=(0, 1), shape=(8, 5)), multiply_by_stored_embedding)
