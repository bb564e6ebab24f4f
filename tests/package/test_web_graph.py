"""The graph for browsers computes what the stored blocks say, and reads the bundle's own weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxgpt
from onnxgpt.export.package.web_graph import unpacking_graph
from onnxgpt.runtime.engine import ort

BUNDLE = Path(__file__).parents[2] / "models" / "fairytale" / "bundle"


def open_graph(graph: str | bytes):
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("width", "size"), [(64, 32), (80, 32), (100, 16)])  # 80 and 100 end within a block
def test_blocks_become_the_matrix_that_they_stand_for(
    tmp_path: Path, bits: int, has_bias: bool, width: int, size: int
) -> None:
    random = np.random.default_rng(bits + width)
    columns, blocks = 24, -(-width // size)
    codes = random.integers(0, 1 << bits, (columns, blocks, size), dtype=np.uint8)
    scales = random.uniform(0.01, 0.1, (columns, blocks)).astype(np.float32)
    bias = random.normal(size=columns).astype(np.float32)
    packed = codes if bits == 8 else codes[..., 0::2] | codes[..., 1::2] << 4
    inputs = ["x", "codes", "scales"] + (["", "", "bias"] if has_bias else [])
    node = helper.make_node(
        "MatMulNBits", inputs, ["y"], domain="com.microsoft", K=width, N=columns, bits=bits, block_size=size
    )
    tensors = {"codes": packed, "scales": scales.ravel(), "bias": bias}
    graph = helper.make_graph(
        [node],
        "matmul",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "rows", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "rows", columns])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items() if name in inputs],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "model.onnx")

    unpacked = unpacking_graph(tmp_path / "model.onnx")
    assert unpacked is not None
    assert "MatMulNBits" not in {node.op_type for node in onnx.load_from_string(unpacked).graph.node}
    x = random.normal(size=(1, 3, width)).astype(np.float32)
    [found] = open_graph(unpacked).run(None, {"x": x})

    values = (codes.astype(np.float64) - (1 << (bits - 1))) * scales[..., None]
    expected = x @ values.reshape(columns, -1)[:, :width].T + (bias if has_bias else 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_embedded_model_gives_its_logits_from_its_own_weights(tmp_path: Path) -> None:
    graph = unpacking_graph(BUNDLE / "model.onnx")
    assert graph is not None
    assert len(graph) < 100_000
    shutil.copyfile(BUNDLE / "model.onnx.data", tmp_path / "model.onnx.data")
    (tmp_path / "unpacked.onnx").write_bytes(graph)
    session = open_graph(str(tmp_path / "unpacked.onnx"))
    model = onnxgpt.load("fairytale")
    ids = model.tokenizer.encode("Once upon a time there was a king who had a golden ball.")
    feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
    for item in session.get_inputs():
        if item.name.startswith("past"):
            feeds[item.name] = np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32)
    [logits] = session.run(["logits"], feeds)

    expected = model.logits(ids)  # of the same blocks; activations are rounded to 8 bits there
    assert np.abs(logits[0] - expected).max() < 0.5
    assert (logits[0].argmax(1) == expected.argmax(1)).mean() > 0.9


def test_a_graph_without_blocks_is_left_alone(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "plain", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")

    assert unpacking_graph(tmp_path / "model.onnx") is None
