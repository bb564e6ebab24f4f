"""The outputs that choose tokens, against numpy: of any type of logits, with equal ones among them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnxgpt.graphs.choices import add_choices, drop_choices, graph_has_choices
from onnxgpt.graphs.kernel_check import place_nodes
from onnxgpt.graphs.kernel_table import kernel_table

NAMES = ["greedy_ids", "top_ids", "top_logits", "log_normalizer"]
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def graph_of_logits(vocabulary: int, dtype: str = "float32") -> ir.Model:
    """A graph whose logits [batch, kept, vocabulary] are its input."""
    shape = ["batch", "kept", vocabulary]
    values = [helper.make_tensor_value_info(name, TYPES[dtype], shape) for name in ("x", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["logits"])], "logits", values[:1], values[1:])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def choices_of(logits: np.ndarray) -> list[np.ndarray]:
    model = graph_of_logits(logits.shape[-1], logits.dtype.name)
    assert add_choices(model)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(NAMES, {"x": logits})


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("batch", "kept", "vocabulary"), [(1, 1, 1000), (3, 2, 50257), (2, 1, 40)])
def test_the_last_positions_best_and_their_normalizer(dtype: str, batch: int, kept: int, vocabulary: int) -> None:
    logits = np.random.default_rng(0).normal(0, 4, (batch, kept, vocabulary)).astype(dtype)
    greedy, ids, best, normalizer = choices_of(logits)
    last = logits[:, -1].astype(np.float64)
    expected = np.argsort(-last, axis=1, kind="stable")[:, :64]  # of equal ones the smaller id first

    np.testing.assert_array_equal(greedy, expected[:, :1])
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(best, np.take_along_axis(last, expected, axis=1))
    np.testing.assert_allclose(normalizer[:, 0], np.log(np.exp(last).sum(axis=1)), rtol=0, atol=2e-6)
    assert [each.dtype for each in (greedy, ids, best, normalizer)] == [np.int64, np.int64, np.float32, np.float32]


def test_of_equal_logits_the_smallest_ids_come_first() -> None:
    logits = np.zeros((1, 1, 3000), np.float32)
    logits[0, 0, [70, 900, 2900]] = 5
    greedy, ids, *_ = choices_of(logits)

    assert greedy.item() == 70
    assert ids[0, :3].tolist() == [70, 900, 2900]
    assert ids[0, 3:].tolist() == list(range(61))


def test_logits_far_from_0_overflow_nowhere() -> None:
    logits = np.array([[[60000.0, 59990.0, -60000.0]]], np.float32)
    *_, normalizer = choices_of(logits)

    np.testing.assert_allclose(normalizer, [[60000.0]], atol=0.01)


def test_they_are_put_in_once_and_taken_out_whole() -> None:
    model = graph_of_logits(300)
    before = ir.to_proto(model).SerializeToString()
    assert add_choices(model)
    assert graph_has_choices(model.graph)
    assert not add_choices(model)
    assert drop_choices(model)
    assert not drop_choices(model)

    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cuda_has_kernels_for_every_node(dtype: str) -> None:
    model = graph_of_logits(50257, dtype)
    add_choices(model)
    table = kernel_table("cuda")
    assert table is not None
    placed = place_nodes(model, table, advice="")

    assert len(placed.device) == len(list(model.graph))
    assert not placed.host
