"""Small graphs, and what every rewrite must keep: the numbers that ONNX Runtime computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from onnxgpt.runtime.engine import ort

Array = np.ndarray[Any, Any]


def build(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str],
    weights: dict[str, Array],
    inputs: dict[str, list[int | str]] | None = None,
) -> ir.Model:
    """A float graph; its one input is x [batch, sequence, 8] unless others are named."""
    named = {"x": ["batch", "sequence", 8]} if inputs is None else inputs
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in named.items()],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def run(model: ir.Model, feeds: dict[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # our rewrites, not its own
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def operators(model: ir.Model) -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph))


def sample(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def tools() -> Any:
    """`build`, `operators` and `sample`, for tests that cannot import from here."""

    class Tools:
        pass

    Tools.build, Tools.operators, Tools.sample, Tools.run = map(staticmethod, (build, operators, sample, run))
    return Tools


@pytest.fixture
def rewritten() -> Callable[..., dict[str, int]]:
    """Run a pass that must change the graph once, and only once, and keep its results; give the operators left."""

    def check(model: ir.Model, graph_pass: Callable[[ir.Model], bool], **feeds: Array) -> dict[str, int]:
        values = feeds or {"x": sample(2, 3, 8, seed=9)}
        before = run(model, values)
        assert graph_pass(model) is True
        for expected, found in zip(before, run(model, values), strict=True):
            np.testing.assert_allclose(found, expected, atol=2e-5)
        left = operators(model)
        assert graph_pass(model) is False
        assert operators(model) == left
        return left

    return check


@pytest.fixture
def untouched() -> Callable[..., None]:
    """Run a pass that must find nothing to change."""

    def check(model: ir.Model, graph_pass: Callable[[ir.Model], bool]) -> None:
        before = operators(model)
        assert graph_pass(model) is False
        assert operators(model) == before

    return check
