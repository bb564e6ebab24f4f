"""Where the nodes of a graph run: counted from a session, and judged."""

from __future__ import annotations

from types import SimpleNamespace

import onnx
import pytest

from onnxgpt.loading import find_bundle
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.errors import ProviderError
from onnxgpt.runtime.placement import CPU, SHAPE_OPERATORS, Placement
from onnxgpt.runtime.session import Session

CUDA = "CUDAExecutionProvider"
EMBEDDED = Bundle.open(find_bundle("fairytale"))


@pytest.fixture(scope="module")
def operators() -> list[str]:
    """The operators of a real graph as ONNX Runtime runs it, one for each node."""
    placement = Session.open_bundle(EMBEDDED).place.placement
    return [operator for _, operator, count in placement.counts for _ in range(count)]


def placed(operators: list[str], *fallen: str) -> Placement:
    """As CUDA would place them: shape arithmetic on the CPU, and what it has no kernels for."""
    return Placement.of([(CPU if name in SHAPE_OPERATORS or name in fallen else CUDA, name) for name in operators])


def test_a_session_on_the_cpu_tells_every_node(operators: list[str]) -> None:
    placement = Session.open_bundle(EMBEDDED).place.placement
    layers = EMBEDDED.manifest.architecture["num_layers"]
    written = [node.op_type for node in onnx.load(EMBEDDED.graph_path, load_external_data=False).graph.node]

    assert placement.nodes() == {CPU: len(operators)}
    assert operators.count("GroupQueryAttention") == written.count("GroupQueryAttention") == layers
    assert placement.fallback_share == 1.0


def test_records_are_read_as_onnx_runtime_gives_them() -> None:
    """Parts of the graph by provider, each with its nodes."""
    node = SimpleNamespace(name="blocks.0.norm", op_type="RMSNormalization", domain="")
    shape = SimpleNamespace(name="node_Shape_2", op_type="Shape", domain="")
    parts = [
        SimpleNamespace(ep_name=CUDA, get_nodes=lambda: [node, node]),
        SimpleNamespace(ep_name=CPU, get_nodes=lambda: [shape]),
    ]
    session = SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)

    assert Placement.of_session(session).counts == ((CUDA, "RMSNormalization", 2), (CPU, "Shape", 1))
    assert Placement.of_session(SimpleNamespace()).nodes() == {}  # ONNX Runtime before it told


def test_shape_arithmetic_on_the_cpu_is_no_fallback(operators: list[str]) -> None:
    placement = placed(operators)

    assert placement.nodes()[CPU] > 5
    assert placement.fallen_back() == {}
    placement.require_on_device("cuda")


def test_a_tenth_of_the_nodes_that_compute_may_fall_back_and_no_more() -> None:
    ten = ["MatMul"] * 9 + ["Softmax"]
    placed(ten, "Softmax").require_on_device("cuda")

    with pytest.raises(ProviderError, match=r"^2 of 11 nodes that compute have no kernel on cuda .*\(2 Softmax\)"):
        placed([*ten, "Softmax"], "Softmax").require_on_device("cuda")


def test_attention_on_the_cpu_is_refused_with_operators_and_counts(operators: list[str]) -> None:
    layers = operators.count("GroupQueryAttention")
    with pytest.raises(ProviderError) as caught:
        placed(operators, "GroupQueryAttention", "SkipSimplifiedLayerNormalization").require_on_device("dml")

    message = str(caught.value)
    assert f"({layers} GroupQueryAttention" in message
    assert "on dml" in message
    assert "--allow-fallback" in message


def test_a_device_that_runs_nothing_is_refused(operators: list[str]) -> None:
    with pytest.raises(ProviderError, match="nodes that compute have no kernel on cuda"):
        placed(operators, *operators).require_on_device("cuda")
