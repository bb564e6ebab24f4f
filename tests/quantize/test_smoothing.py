"""Smoothing changes no logits as long as nothing is rounded, and takes outliers out of activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnxgpt.quantize.blocks import BlockFormat
from onnxgpt.quantize.calibration import InputStatistics, record_inputs
from onnxgpt.quantize.layerwise import Changes, LayerQuantizer
from onnxgpt.quantize.recipe import QuantRecipe
from onnxgpt.quantize.segments import SegmentedReading
from onnxgpt.quantize.smoothing import choose_scale
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.session import Session
from onnxgpt.runtime.settings import SessionSettings


@dataclass(frozen=True, kw_only=True)
class Unrounded(QuantRecipe[np.ndarray]):
    """Chooses scales as for 8-bit blocks, and rounds nothing."""

    kind = "blocks"
    operators = "fused"

    def format_of(self, record: Any) -> BlockFormat:
        return BlockFormat(8, 32)

    def quantize(self, weights: np.ndarray, record: Any, statistics: InputStatistics | None) -> np.ndarray:
        return weights


UNROUNDED = Unrounded(name="unrounded", description="smooths only", max_kl=1.0)


def smoothed_changes(bundle: Bundle, windows: list[np.ndarray]) -> Changes[np.ndarray]:
    """The pipeline's own parts, layer by layer, with a recipe that rounds nothing."""
    model = ir.load(bundle.graph_path)
    inputs = {node.name: node.inputs[0].name for node in model.graph if node.inputs and node.inputs[0] is not None}
    records = [record for record in bundle.manifest.matrices if not record["role"].endswith("_embedding")]
    reading = SegmentedReading(model, bundle.directory, windows, threads=1)
    quantizer = LayerQuantizer(model.graph, UNROUNDED, bundle.manifest.architecture)
    for _, group in groupby(records, key=lambda record: record["layer"]):
        unit = list(group)
        statistics = record_inputs(reading, {record["initializer"]: inputs[record["node"]] for record in unit})
        assert len(list(quantizer.quantize(unit, statistics))) == len(unit)
    return quantizer.changes


def graph_with(bundle: Bundle, changes: Changes[np.ndarray]) -> bytes:
    """The bundle's graph with the new values, and with an embedding of its own that undoes the head's scale."""
    model = onnx.load(bundle.graph_path)
    new = dict(changes.vectors)
    for record in bundle.manifest.matrices:
        matrix = changes.matrices.get(record["initializer"])
        if matrix is None or record["role"] == "token_embedding":
            continue
        new[record["initializer"]] = matrix.T if record["transposed"] else matrix
        if record["transposed"]:
            scale = 1 if changes.embedding_scale is None else changes.embedding_scale
            [embedding] = [node for node in model.graph.node if node.name == "node_embedding"]
            embedding.input[0] = "looked_up"
            model.graph.initializer.append(
                numpy_helper.from_array(np.asarray(matrix.T * scale, np.float32), "looked_up")
            )
    for tensor in model.graph.initializer:
        if tensor.name in new:
            value = np.ascontiguousarray(new.pop(tensor.name), np.float32)
            assert value.shape == tuple(tensor.dims)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    assert not new
    return model.SerializeToString()


def change_of_logits(bundle: Bundle, windows: list[np.ndarray]) -> float:
    changes = smoothed_changes(bundle, windows)
    original_weights = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(bundle.graph_path).graph.initializer
    }
    moved = [
        name
        for name, matrix in changes.matrices.items()
        if not np.array_equal(matrix.ravel(), original_weights[name].ravel())
    ]
    assert len(moved) >= bundle.manifest.architecture["num_layers"]
    ids = windows[0][None, :40]
    smoothed = Session.open(graph_with(bundle, changes), SessionSettings(threads=1), weights_directory=bundle.directory)
    original = Session.open(
        bundle.graph_path.read_bytes(), SessionSettings(threads=1), weights_directory=bundle.directory
    )
    found, expected = (session.capture(ids, ["logits"])["logits"] for session in (smoothed, original))
    spread = float(np.std(expected))
    return float(np.abs(found - expected).max()) / max(spread, 1.0)


@pytest.mark.parametrize("name", ["llama", "gpt2", "no fused attention"])
def test_folding_scales_changes_no_logits_of_small_models(name: str, small_bundle: Callable[..., Bundle]) -> None:
    bundle = small_bundle(name)
    ids = np.random.default_rng(7).integers(1, 256, (3, 64))

    assert change_of_logits(bundle, list(ids)) < 1e-4


def test_folding_scales_changes_no_logits_of_the_embedded_model(full_bundle: Bundle) -> None:
    ids = np.random.default_rng(8).integers(0, 4096, (2, 128))

    assert change_of_logits(full_bundle, list(ids)) < 1e-4


def statistics_of(samples: np.ndarray) -> InputStatistics:
    return InputStatistics(samples.T @ samples / np.float32(len(samples)), samples)


def test_outliers_of_channels_are_divided_away() -> None:
    generator = np.random.default_rng(9)
    samples = generator.normal(size=(128, 64)).astype(np.float32)
    samples[:, [5, 40]] *= 60.0
    weights = generator.normal(size=(64, 48)).astype(np.float32)
    form = BlockFormat(8, 32)
    scale = choose_scale(weights, statistics_of(samples), form)
    largest = np.abs(samples / scale).max(axis=0)

    assert largest[[5, 40]].max() < 0.2 * np.abs(samples[:, [5, 40]]).max() / np.median(
        np.abs(samples).max(axis=0)
    ) * np.median(largest)
    errors = []
    for factor in (np.ones(64, np.float32), scale):
        product = form.round_inputs(samples / factor) @ form.round_weights(weights * factor[:, None])
        errors.append(np.linalg.norm(product - samples @ weights))
    assert errors[1] < 0.5 * errors[0]


def test_channels_that_need_it_share_one_scale() -> None:
    generator = np.random.default_rng(10)
    samples = (generator.normal(size=(64, 48)) * generator.lognormal(1.0, size=48)).astype(np.float32)
    weights = generator.normal(size=(48, 20)).astype(np.float32)
    scale = choose_scale(weights, statistics_of(samples), BlockFormat(8, 16), (2, 3, 8)).reshape(2, 3, 8)

    np.testing.assert_array_equal(scale, np.broadcast_to(scale[:, :1], scale.shape))
    assert np.ptp(scale) > 0.1
