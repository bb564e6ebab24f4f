"""The residual stream found in graphs of every kind, and its values against PyTorch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxruntime.quantization import quantize_dynamic

from onnxgpt.export.pipeline import export_checkpoint
from onnxgpt.graphs.targets import graph_form
from onnxgpt.quantize.readers import BundleReader
from onnxgpt.quantize.residuals import find_residuals, residual_session
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.settings import SessionSettings
from onnxgpt.torch_reader import TorchReader

from ..export.conftest import CONFIGS, checkpoint_of, random_gpt

WINDOWS = [np.array([5, 17, 200, 33, 8, 91, 2]), np.array([256, 1, 4, 4, 77, 140, 30])]
CASES = [
    ("gpt2", "fused"),
    ("gpt2", "standard"),
    ("llama", "fused"),
    ("llama", "standard"),
    ("no fused attention", "fused"),
    ("sinusoidal, relu, norms after", "fused"),
    ("sinusoidal, relu, norms after", "standard"),
    ("rms norms after, one key head", "fused"),
    ("parallel", "fused"),
    ("parallel", "standard"),
    ("parallel, one norm, norms of each head", "fused"),
]


@pytest.mark.parametrize(("name", "operators"), CASES)
def test_the_sums_are_those_of_pytorch(name: str, operators: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(random_gpt(**CONFIGS[name]))
    bundle = export_checkpoint(checkpoint, tmp_path / "bundle", form=graph_form(operators=operators))
    expected = TorchReader(checkpoint).residuals(WINDOWS)
    found = BundleReader(bundle, SessionSettings(threads=1)).residuals(WINDOWS)

    assert len(found) == 2
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == (14, 32)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_integer_products_are_looked_through(tmp_path: Path) -> None:
    """ONNX Runtime's own dynamic quantization: casts and scales stand between the products and the sums."""
    checkpoint = checkpoint_of(random_gpt(**CONFIGS["llama"] | {"tied_head": False}))
    bundle = export_checkpoint(checkpoint, tmp_path / "bundle", form=graph_form(operators="standard"))
    quantized = tmp_path / "quantized" / "model.onnx"
    quantized.parent.mkdir()
    quantize_dynamic(bundle.graph_path, quantized)
    session, names = residual_session(quantized, SessionSettings(threads=1))
    values = session.capture(WINDOWS[0][None], names)
    expected = TorchReader(checkpoint).residuals(WINDOWS[:1])

    assert "MatMulInteger" in {node.op_type for node in onnx.load(quantized).graph.node}
    assert len(names) == 2
    for name, theirs in zip(names, expected, strict=True):
        error = np.linalg.norm(values[name][0] - theirs) / np.linalg.norm(theirs)
        assert 1e-4 < error < 0.1


GRAPH = """
<ir_version: 10, opset_import: ["" : 21]>
decoder (int64[1, sequence] input_ids, int64[1, sequence] attention_mask,
    float[1, 1, 0, 4] past_key_values_dot_0_dot_key, float[1, 1, 0, 4] past_key_values_dot_0_dot_value)
    => (float[1, sequence, 4] logits, float[1, 1, sequence, 4] present_dot_0_dot_key,
    float[1, 1, sequence, 4] present_dot_0_dot_value)
    <float[4, 4] table = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}, float scale = {0.01}, uint8 zero = {0},
     int64[1] one = {1}>
{
    embedded = Gather (table, input_ids)
    codes = QuantizeLinear (embedded, scale, zero)
    skip = DequantizeLinear (codes, scale, zero)
    branch = DequantizeLinear (codes, scale, zero)
    present_dot_0_dot_key = Unsqueeze (branch, one)
    present_dot_0_dot_value = Identity (present_dot_0_dot_key)
    attended = Squeeze (present_dot_0_dot_value, one)
    first = Add (attended, skip)
    first_codes = QuantizeLinear (first, scale, zero)
    first_again = DequantizeLinear (first_codes, scale, zero)
    activated = Tanh (first_again)
    second = Add (first_again, activated)
    logits = MatMul (second, table)
}
"""


def decoder_of(text: str) -> ir.Model:
    """Parse a graph; names in ONNX's text form hold no dots."""
    model = ir.from_proto(onnx.parser.parse_model(text))
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.name = str(value.name).replace("_dot_", ".")
    return model


def test_a_stream_that_is_quantized_itself_is_followed() -> None:
    """QDQ: skip and branch are dequantized by nodes of their own, so neither comes from the other."""
    model = decoder_of(GRAPH)

    assert [value.name for value in find_residuals(model)] == ["second"]


def test_a_graph_without_residual_sums_has_none() -> None:
    model = decoder_of(GRAPH.replace("Add", "Mul"))

    assert find_residuals(model) == []


def test_the_file_is_not_changed(fairytale_bundle: Bundle) -> None:
    residual_session(fairytale_bundle.graph_path, SessionSettings(threads=1))

    fairytale_bundle.verify_hashes()
