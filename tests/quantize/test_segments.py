"""A text read segment by segment shows the same values as one run of the whole graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxgpt.quantize.calibration import record_inputs
from onnxgpt.quantize.segments import SegmentedReading
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.session import Session
from onnxgpt.runtime.settings import SessionSettings

CASES = [
    ("llama", "fused"),
    ("llama", "standard"),
    ("gpt2", "fused"),
    ("no fused attention", "fused"),
]


def product_inputs(bundle: Bundle) -> list[str]:
    """What goes into each matrix product, in the graph's order, each once."""
    nodes = {node.name: node for node in ir.load(bundle.graph_path).graph}
    products = [record for record in bundle.manifest.matrices if not record["role"].endswith("_embedding")]
    names = [nodes[record["node"]].inputs[0].name for record in products]
    return list(dict.fromkeys(names))


def session_that_shows(bundle: Bundle, names: list[str]) -> Session:
    """The whole graph, with these values as outputs."""
    model = onnx.load(bundle.graph_path, load_external_data=False)
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    return Session.open(model.SerializeToString(), SessionSettings(threads=1), weights_directory=bundle.directory)


@pytest.mark.parametrize(("name", "operators"), CASES)
def test_segments_show_what_one_run_shows(name: str, operators: str, small_bundle: Callable[..., Bundle]) -> None:
    bundle = small_bundle(name, operators)
    windows = list(np.random.default_rng(11).integers(1, 256, (3, 20)))
    names = product_inputs(bundle)
    reading = SegmentedReading(ir.load(bundle.graph_path), bundle.directory, windows, threads=1)
    session = session_that_shows(bundle, names)
    whole = [session.capture(window[None], names) for window in windows]

    assert len(names) >= 8
    for start in range(0, len(names), 3):  # three products to a segment: segments end in the middle of layers
        asked = names[start : start + 3]
        found = list(reading.read(asked))
        assert len(found) == 3
        for ours, theirs in zip(found, whole, strict=True):
            assert set(ours) == set(asked)
            for value in asked:
                np.testing.assert_allclose(ours[value], theirs[value], rtol=1e-4, atol=1e-4)


def test_statistics_are_those_of_the_inputs(small_bundle: Callable[..., Bundle]) -> None:
    bundle = small_bundle("llama")
    windows = list(np.random.default_rng(12).integers(1, 256, (3, 20)))
    name = product_inputs(bundle)[1]
    reading = SegmentedReading(ir.load(bundle.graph_path), bundle.directory, windows, threads=1)
    found = record_inputs(reading, {"matrix": name})["matrix"]
    session = session_that_shows(bundle, [name])
    rows = np.concatenate([session.capture(window[None], [name])[name][0] for window in windows])

    np.testing.assert_allclose(found.second_moments, rows.T @ rows / len(rows), rtol=1e-3, atol=1e-4)
    assert found.samples.shape == rows.shape  # windows this short are kept whole
    np.testing.assert_allclose(found.samples, rows, rtol=1e-4, atol=1e-4)
