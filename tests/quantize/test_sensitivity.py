"""Sensitivities measured stream by stream are those of whole graphs with one matrix rounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxgpt.quantize import quantize_bundle
from onnxgpt.quantize.blocks import BlockFormat, quantize_nearest
from onnxgpt.quantize.sensitivity import measure_sensitivity
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.session import Session
from onnxgpt.runtime.settings import SessionSettings

FORM = BlockFormat(4, 32, symmetric=False)


def log_probabilities(content: bytes, bundle: Bundle, ids: np.ndarray) -> np.ndarray:
    session = Session.open(content, SessionSettings(threads=1), weights_directory=bundle.directory)
    logits = session.capture(ids[None], ["logits"])["logits"][0].astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def with_rounded(bundle: Bundle, node_name: str, matrix_name: str) -> bytes:
    """The whole graph with one product in blocks."""
    model = onnx.load(bundle.graph_path, load_external_data=False)
    weights = ir.load(bundle.graph_path).graph.initializers[matrix_name].const_value.numpy()
    blocks = quantize_nearest(np.array(weights), FORM)
    arrays = {"codes": blocks.codes, "scales": blocks.scales, "zeros": blocks.zeros}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    index = next(index for index, node in enumerate(model.graph.node) if node.name == node_name)
    old = model.graph.node[index]
    rows, columns = weights.shape
    model.graph.node[index].CopyFrom(
        onnx.helper.make_node(
            "MatMulNBits", [old.input[0], *arrays], list(old.output), domain="com.microsoft",
            K=rows, N=columns, bits=4, block_size=32, accuracy_level=4,
        )
    )  # fmt: skip
    return model.SerializeToString()


@pytest.mark.parametrize("name", ["llama", "gpt2", "parallel"])
def test_equal_to_whole_graphs(name: str, small_bundle: Callable[..., Bundle]) -> None:
    bundle = small_bundle(name, "fused")
    ids = np.random.default_rng(12).integers(1, 256, 20)
    products = {
        record["initializer"]: record["node"] for record in bundle.manifest.matrices if record["layer"] is not None
    }
    found = measure_sensitivity(ir.load(bundle.graph_path), bundle.directory, products, FORM, ids, threads=1)

    exact = log_probabilities(bundle.graph_path.read_bytes(), bundle, ids)
    assert set(found) == set(products)
    assert len(found) >= 8
    for matrix, node in products.items():
        rounded = log_probabilities(with_rounded(bundle, node, matrix), bundle, ids)
        expected = (np.exp(exact) * (exact - rounded)).sum(axis=-1).mean()
        assert found[matrix] == pytest.approx(expected, rel=0.1, abs=1e-6)  # inputs near the middle of two codes


def test_a_context_shorter_than_the_probe_is_enough(small_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    """Rotary tables are as long as the context: a probe beyond it could not be read at all."""
    bundle = small_bundle("llama", "fused")
    assert bundle.manifest.context_length < 2 * 96
    made = quantize_bundle(bundle.directory, tmp_path / "int4", recipe="int4", accept_quality=True)
    assert made.manifest.quality is not None
