"""The 8-bit cache: its ranges and its logits against transformers with rounded keys and values, and what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

import onnxgpt
from onnxgpt.inspecting import describe
from onnxgpt.quantize import quantize_bundle
from onnxgpt.quantize.kv_cache import cache_scale, cache_statistics, quantize_cache
from onnxgpt.quantize.recipe import recipe_named
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.errors import OptionError, QuantizationError
from onnxgpt.runtime.session import Session

from ..export.conftest import CONFIGS, random_gpt

LAYERS, HEADS, SIZE = 6, 4, 64  # of the embedded model
WIDTH = HEADS * SIZE
IDS = np.random.default_rng(3).integers(0, 4096, 300)


@pytest.fixture(scope="module")
def cached(full_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded model in full precision, with an 8-bit cache."""
    return quantize_bundle(full_bundle.directory, tmp_path_factory.mktemp("cache") / "bundle", recipe="cache")


def stored_scales(bundle: Bundle) -> dict[str, np.ndarray]:
    """The scales in a bundle's graph, read with onnx."""
    graph = onnx.load(bundle.graph_path).graph
    return {
        tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name.startswith("cache.")
    }


def logits_with_rounded_cache(model: Any, scales: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """transformers' logits when every key and value is rounded to its scale's multiples: [sequence, vocabulary]."""

    def rounding(layer: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            rounded = output.clone()
            for place, kind in ((1, "key"), (2, "value")):
                scale = torch.from_numpy(scales[f"cache.{layer}.{kind}.scale"].reshape(WIDTH).copy())
                part = slice(place * WIDTH, (place + 1) * WIDTH)
                rounded[..., part] = (output[..., part] / scale).round().clamp(-128, 127) * scale
            return rounded

        return hook

    hooks = [
        block.attn.c_attn.register_forward_hook(rounding(layer)) for layer, block in enumerate(model.transformer.h)
    ]
    try:
        with torch.no_grad():
            return model(torch.from_numpy(ids[None])).logits[0].numpy()
    finally:
        for hook in hooks:
            hook.remove()


def test_ranges_are_those_of_transformers_cache(full_bundle, fairytale_in_transformers):
    windows = [IDS[:200], IDS[200:]]
    found = cache_statistics(Session.open(full_bundle.graph_path), windows)
    with torch.no_grad():
        caches = [
            fairytale_in_transformers(torch.from_numpy(window[None]), use_cache=True).past_key_values.layers
            for window in windows
        ]
    for layer, greatest in enumerate(found):
        expected = [
            torch.stack([cache[layer].keys[0], cache[layer].values[0]]).abs().amax(dim=2).numpy() for cache in caches
        ]
        np.testing.assert_allclose(greatest, np.maximum(*expected), rtol=1e-4, atol=1e-5)


def test_logits_are_those_of_rounded_keys_and_values(cached, fairytale_in_transformers):
    expected = logits_with_rounded_cache(fairytale_in_transformers, stored_scales(cached), IDS)
    with torch.no_grad():
        unrounded = fairytale_in_transformers(torch.from_numpy(IDS[None])).logits[0].numpy()
    session = Session.open(cached.graph_path)
    with session.new_cache(capacity=16, limit=len(IDS)) as cache:
        found = [session.step(IDS[None, :128], cache, keep=0)[0], session.step(IDS[None, 128:256], cache, keep=0)[0]]
        found += [session.step(IDS[None, place : place + 1], cache)[0].copy() for place in range(256, len(IDS))]
    difference = np.abs(np.concatenate(found) - expected)
    # A value that lies between two codes may fall to either side: that makes single logits differ, never all.
    assert difference.mean() < 0.1 * np.abs(unrounded - expected).mean()


def test_the_cache_takes_a_quarter_and_the_manifest_says_so(cached, full_bundle):
    full, small = (onnxgpt.load(bundle.directory, threads=2) for bundle in (full_bundle, cached))
    assert full.session.spec.layout.bytes_per_token() == 2 * LAYERS * WIDTH * 4
    assert small.session.spec.layout.bytes_per_token() == 2 * LAYERS * WIDTH
    assert describe(cached)["bytes"]["cache_per_token"] == 2 * LAYERS * WIDTH
    assert cached.manifest.quantization["kv_cache"] == "int8"
    assert cached.manifest.quantization["name"] == "cache"
    assert cached.weight_bytes < full_bundle.weight_bytes + 50_000
    quality = cached.manifest.quality
    assert 0 < quality["mean_kl"] < 0.001
    assert quality["text"]["sha256"]
    prompt = "Once upon a time there was"
    texts = [model.generate(prompt, do_sample=False, max_new_tokens=24)[0].text for model in (full, small)]
    assert texts[0][:40] == texts[1][:40]


def test_the_same_bundle_gives_the_same_files(cached, full_bundle, tmp_path):
    again = quantize_bundle(full_bundle.directory, tmp_path / "again", recipe="cache")
    for name in ("model.onnx", "model.onnx.data"):
        assert cached.manifest.files[name] == again.manifest.files[name]


def test_block_recipes_take_the_cache_too_and_lose_little_by_it(full_bundle, cached, tmp_path):
    plain = quantize_bundle(full_bundle.directory, tmp_path / "plain", method="nearest")
    both = quantize_bundle(full_bundle.directory, tmp_path / "both", method="nearest", kv_cache="int8")
    assert plain.manifest.quantization["kv_cache"] is None
    assert both.manifest.quantization == plain.manifest.quantization | {"kv_cache": "int8"}
    assert both.manifest.quality["mean_kl"] < plain.manifest.quality["mean_kl"] + 0.002
    # Smoothing changes what is cached, so the scales are not those of the full-precision graph.
    kept, smoothed = stored_scales(cached), stored_scales(both)
    assert kept.keys() == smoothed.keys()
    assert len(kept) == 2 * LAYERS
    assert not any(np.allclose(kept[name], smoothed[name], rtol=0.01) for name in kept if "value" in name)
    types = {value.type for value in Session.open(both.graph_path)._session.get_inputs() if "past" in value.name}
    assert types == {"tensor(int8)"}


def test_keys_are_measured_after_rotary_position(small_bundle):
    """The eager GPT caches rotated keys; so does the graph, and 8 bits leave the logits near."""
    config = CONFIGS["llama"]
    bundle, gpt = small_bundle("llama"), random_gpt(**config)
    ids = np.random.default_rng(1).integers(0, 300, 64)
    found = cache_statistics(Session.open(bundle.graph_path), [ids])
    empty = torch.zeros(1, 2, 0, 16)
    expected, presents = gpt(torch.from_numpy(ids[None]), torch.ones(1, 64, dtype=torch.int64), [(empty, empty)] * 2)
    for greatest, (keys, values) in zip(found, presents, strict=True):
        both = torch.stack([keys[0], values[0]]).abs().amax(dim=2).numpy()
        np.testing.assert_allclose(greatest, both, rtol=1e-4)
    graph = ir.load(bundle.graph_path)
    quantize_cache(graph, found)
    session = Session.open(ir.to_proto(graph).SerializeToString(), weights_directory=bundle.directory)
    with session.new_cache(limit=64) as cache:
        difference = np.abs(session.step(ids[None], cache, keep=0)[0] - expected[0].numpy())
    assert 0 < difference.mean() < 0.02 * float(expected.std())


def test_a_channel_that_is_always_zero_has_a_scale():
    scale = cache_scale(np.array([[0.0, 12.7]], np.float32))
    assert scale.shape == (1, 1, 1, 2)
    assert (scale > 0).all()
    np.testing.assert_allclose(scale[0, 0, 0, 1], 0.11, rtol=1e-6)


def test_another_attention_is_refused(small_bundle, tmp_path):
    standard, unfit = small_bundle("llama", "standard"), small_bundle("no fused attention")
    for bundle in (standard, unfit):
        with pytest.raises(
            QuantizationError, match=r"past_key_values\.0\.key is read by .* needs .*GroupQueryAttention"
        ):
            quantize_cache(ir.load(bundle.graph_path), [np.ones((2, 2, 16), np.float32)] * 2)
    with pytest.raises(QuantizationError, match="has standard operators, cache takes fused"):
        quantize_bundle(standard.directory, tmp_path / "out", recipe="cache")
    with pytest.raises(QuantizationError, match="multiples of 8"):
        quantize_bundle(unfit.directory, tmp_path / "out", kv_cache="int8")
    assert not (tmp_path / "out").exists()


def test_a_graph_whose_cache_is_in_8_bits_is_refused(cached, tmp_path):
    with pytest.raises(QuantizationError, match=r"past_key_values\.0\.key is INT8: expected a float cache"):
        quantize_cache(ir.load(cached.graph_path), [np.ones((2, HEADS, SIZE), np.float32)] * LAYERS)
    with pytest.raises(QuantizationError, match="is quantized already"):
        quantize_bundle(cached.directory, tmp_path / "out", recipe="cache")


def test_ranges_that_do_not_fit_are_refused(full_bundle):
    model = ir.load(full_bundle.graph_path)
    with pytest.raises(QuantizationError, match="6 layers and there are ranges for 1"):
        quantize_cache(model, [np.ones((2, HEADS, SIZE), np.float32)])
    ranges = [np.ones((2, HEADS, SIZE), np.float32) for _ in range(LAYERS)]
    ranges[2][1, 3, 5] = np.inf
    with pytest.raises(QuantizationError, match="layer 2 are not finite"):
        quantize_cache(model, ranges)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("int8", {"kv_cache": "int4"}, "kv_cache is 'int4': expected int8"),
        ("cache", {"kv_cache": None}, "changes nothing"),
        ("cache", {"smooth": True}, "smooth has no effect"),
        ("int8-dynamic", {"kv_cache": "int8"}, "has no 8-bit cache"),
        ("int8-static", {"kv_cache": "int8"}, "has no 8-bit cache"),
    ],
)
def test_fields_without_sense_are_refused(name, fields, message):
    with pytest.raises(OptionError, match=message):
        recipe_named(name, **fields)
