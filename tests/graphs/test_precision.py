"""Half precision: what is converted, what stays in float32, and the way back. Graphs are written out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from onnxgpt.graphs.precision import to_float32, to_half
from onnxgpt.graphs.writing import write_model
from onnxgpt.runtime.errors import ExportError

RANDOM = np.random.default_rng(5)
LOWEST = np.finfo(np.float32).min


def floats(name: str, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))


def weight(name: str, numbers: object) -> ir.Value:
    array = np.asarray(numbers, np.float32)
    value = floats(name, *array.shape)
    value.const_value = ir.tensor(array, name=name)
    return value


def model_of(inputs: Sequence[ir.Value], nodes: Sequence[ir.Node], **outputs: ir.Value) -> ir.Model:
    """A model that gives out some values by these names; its initializers are found among the nodes' inputs."""
    for name, value in outputs.items():
        value.name, value.type = name, ir.TensorType(ir.DataType.FLOAT)
    weights = {id(value): value for node in nodes for value in node.inputs if value is not None and value.const_value}
    graph = ir.Graph(
        inputs,
        list(outputs.values()),
        nodes=nodes,
        initializers=list(weights.values()),
        opset_imports={"": 20, "com.microsoft": 1},
        name="test",
    )
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, directory: Path, **feeds: np.ndarray) -> list[np.ndarray]:
    directory.mkdir(exist_ok=True)
    write_model(model, directory)
    session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    results: list[np.ndarray] = session.run(None, feeds)
    return results


def kinds_of(model: ir.Model) -> dict[str, ir.DataType | None]:
    """Of each operator's first output, Casts left out."""
    return {node.op_type: node.outputs[0].dtype for node in model.graph if node.op_type != "Cast"}


def masked_attention() -> ir.Model:
    """softmax(tanh(x @ y / 50) * 50 + mask) @ y, the mask made of booleans and float32's lowest number."""
    left, right = floats("left", 4, 8), floats("right", 8, 4)
    seen = ir.Value(name="seen", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([4, 4]))
    scores = ir.node("MatMul", [left, right])
    divided = ir.node("Div", [scores.outputs[0], weight("cap", 50.0)])
    bent = ir.node("Tanh", divided.outputs)
    capped = ir.node("Mul", [bent.outputs[0], weight("cap.again", 50.0)])
    bias = ir.node("Where", [seen, weight("zero", 0.0), weight("lowest", LOWEST)])
    added = ir.node("Add", [capped.outputs[0], bias.outputs[0]])
    weights = ir.node("Softmax", added.outputs)
    turned = ir.node("Transpose", [right])
    last = ir.node("MatMul", [weights.outputs[0], turned.outputs[0]])
    nodes = [scores, divided, bent, capped, bias, added, weights, turned, last]
    return model_of([left, right, seen], nodes, logits=last.outputs[0])


def test_scores_their_cap_their_mask_and_softmax_stay_in_float32(tmp_path: Path) -> None:
    model = masked_attention()
    to_half(model, "float16")
    kinds = kinds_of(model)

    assert [kinds[name] for name in ("Div", "Tanh", "Mul", "Where", "Add", "Softmax")] == [ir.DataType.FLOAT] * 6
    products = [node.outputs[0].dtype for node in model.graph if node.op_type == "MatMul"]
    assert products == [ir.DataType.FLOAT, ir.DataType.FLOAT16]

    left, right = RANDOM.normal(size=(4, 8)).astype(np.float16), RANDOM.normal(size=(8, 4)).astype(np.float16)
    seen = np.tril(np.ones((4, 4), bool))
    (found,) = run(model, tmp_path, left=left, right=right, seen=seen)
    scores = np.tanh(left.astype(np.float64) @ right / 50) * 50
    powers = np.where(seen, np.exp(scores), 0.0)
    expected = powers / powers.sum(-1, keepdims=True) @ right.astype(np.float64).T
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=4e-3)  # weights and result rounded once each, values below 4


def test_a_norm_written_out_is_in_float32_and_its_neighbours_are_not(tmp_path: Path) -> None:
    """Squares of 300 are 90,000, which float16 does not hold."""
    hidden = floats("hidden", 2, 16)
    matrix, gain = weight("matrix", RANDOM.normal(size=(16, 16))), weight("gain", RANDOM.normal(size=16))
    product = ir.node("MatMul", [hidden, matrix])
    square = ir.node("Pow", [product.outputs[0], weight("two", 2.0)])
    axes = ir.Value(name="axes", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([1]))
    axes.const_value = ir.tensor(np.array([-1], np.int64), name="axes")
    mean = ir.node("ReduceMean", [square.outputs[0], axes])
    added = ir.node("Add", [mean.outputs[0], weight("epsilon", 1e-12)])  # 0 in float16
    root = ir.node("Sqrt", added.outputs)
    divided = ir.node("Div", [product.outputs[0], root.outputs[0]])
    scaled = ir.node("Mul", [divided.outputs[0], gain])
    last = ir.node("MatMul", [scaled.outputs[0], matrix])
    nodes = [product, square, mean, added, root, divided, scaled, last]
    model = model_of([hidden], nodes, logits=last.outputs[0])
    to_half(model, "float16")

    kinds = kinds_of(model)
    assert [kinds[name] for name in ("Pow", "ReduceMean", "Add", "Sqrt", "Div")] == [ir.DataType.FLOAT] * 5
    assert [value.dtype for value in (matrix, gain)] == [ir.DataType.FLOAT16, ir.DataType.FLOAT]
    assert kinds["MatMul"] == ir.DataType.FLOAT16

    values = (RANDOM.normal(size=(2, 16)) * 300).astype(np.float16)
    (found,) = run(model, tmp_path, hidden=values)
    wide = np.asarray(matrix.const_value.numpy(), np.float64)  # type: ignore[union-attr]
    before = values @ wide
    normed = before / np.sqrt((before**2).mean(-1, keepdims=True)) * gain.const_value.numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(found, normed @ wide, rtol=5e-3, atol=5e-2)


def two_sided() -> ir.Model:
    """hidden * gain, and exp(hidden) * gain: one weight that half precision and float32 read."""
    hidden, gain = floats("hidden", 2, 8), weight("gain", RANDOM.normal(size=8) / 3)
    plain = ir.node("Mul", [hidden, gain], name="plain")
    powers = ir.node("Exp", [hidden])
    scaled = ir.node("Mul", [powers.outputs[0], gain], name="scaled")
    log = ir.node("Abs", scaled.outputs)
    return model_of([hidden], [plain, powers, scaled, log], logits=plain.outputs[0], other=log.outputs[0])


def test_a_weight_that_both_sides_read_is_kept_and_copied(tmp_path: Path) -> None:
    model = two_sided()
    gain = model.graph.initializers["gain"].const_value.numpy()  # type: ignore[union-attr]
    to_half(model, "float16")
    assert {name: value.dtype for name, value in model.graph.initializers.items()} == {
        "gain": ir.DataType.FLOAT,
        "gain.half": ir.DataType.FLOAT16,
    }
    hidden = RANDOM.normal(size=(2, 8)).astype(np.float16)
    plain, other = run(model, tmp_path, hidden=hidden)
    np.testing.assert_allclose(plain, hidden * gain, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(other, np.abs(np.exp(hidden.astype(np.float32)) * gain), rtol=1e-6)

    to_float32(model)
    assert [(name, value.dtype) for name, value in model.graph.initializers.items()] == [("gain", ir.DataType.FLOAT)]


def test_there_and_back_the_graph_is_the_same_and_its_weights_are_rounded(tmp_path: Path) -> None:
    model, again = masked_attention(), masked_attention()
    to_half(again, "float16")
    to_float32(again)
    assert [node.op_type for node in again.graph] == [node.op_type for node in model.graph]
    assert [value.dtype for value in (*again.graph.inputs, *again.graph.outputs)] == [
        value.dtype for value in (*model.graph.inputs, *model.graph.outputs)
    ]
    feeds = {
        "left": RANDOM.normal(size=(4, 8)).astype(np.float32),
        "right": RANDOM.normal(size=(8, 4)).astype(np.float32),
        "seen": np.tril(np.ones((4, 4), bool)),
    }
    np.testing.assert_array_equal(run(model, tmp_path / "a", **feeds)[0], run(again, tmp_path / "b", **feeds)[0])


@pytest.mark.parametrize(("dtype", "eight_bits"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_weights_are_rounded_to_the_nearest_of_the_type(dtype: str, eight_bits: float) -> None:
    numbers = RANDOM.normal(size=(32, 32)).astype(np.float32)
    matrix = weight("matrix", numbers)
    product = ir.node("MatMul", [floats("hidden", 2, 32), matrix])
    model = model_of(product.inputs[:1], [product], logits=product.outputs[0])  # type: ignore[arg-type]
    to_half(model, dtype)  # type: ignore[arg-type]
    to_float32(model)
    rounded = matrix.const_value.numpy()  # type: ignore[union-attr]
    assert rounded.dtype == np.float32
    difference = np.abs(rounded - numbers) / np.abs(numbers)
    assert eight_bits / 4 < difference.max() <= eight_bits


def test_bfloat16_gives_out_logits_that_numpy_knows() -> None:
    model = masked_attention()
    to_half(model, "bfloat16")
    logits, *_ = model.graph.outputs
    assert (logits.name, logits.dtype) == ("logits", ir.DataType.FLOAT)
    assert logits.producer().op_type == "Cast"  # type: ignore[union-attr]


def test_a_weight_beyond_float16_is_refused_by_its_name_and_fits_bfloat16(tmp_path: Path) -> None:
    def graph() -> ir.Model:
        hidden, large = floats("hidden", 1, 2), weight("blocks.0.mlp.down.weight", [[1.0, 2.0], [3.0, 70000.0]])
        product = ir.node("MatMul", [hidden, large])
        return model_of([hidden], [product], logits=product.outputs[0])

    model = graph()
    to_half(model, "float16")
    with pytest.raises(ExportError, match=r"blocks\.0\.mlp\.down\.weight holds 7e\+04, and float16 ends at 65504.*bf"):
        write_model(model, tmp_path)
    wider = graph()
    to_half(wider, "bfloat16")
    write_model(wider, tmp_path)
    stored = ir.load(tmp_path / "model.onnx").graph.initializers["blocks.0.mlp.down.weight"]
    assert stored.dtype == ir.DataType.BFLOAT16
    np.testing.assert_allclose(np.asarray(stored.const_value.numpy(), np.float32)[1], [3.0, 70144.0])  # type: ignore[union-attr]


def test_float32_is_left_alone() -> None:
    model = masked_attention()
    to_half(model, "float32")
    assert {value.dtype for value in model.graph.initializers.values()} == {ir.DataType.FLOAT}
