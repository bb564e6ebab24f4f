"""The key/value cache in 8 bits: what its values range over, and the scales for it in the graph.

ONNX Runtime's GroupQueryAttention rounds keys (after rotary position) and values as it writes them into the cache, and
multiplies by the scales as it reads them; the arithmetic stays float32. Scales are fixed, one per key/value head and
channel: a few key channels are several times larger than the others, so that one scale for all would leave those with
few steps (SmolLM2: a mean KL divergence of 0.0031 with one scale per tensor, 0.0008 with one per channel).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..graphs.editing import CONTRIB, add_initializer
from ..graphs.writing import extend_model
from ..runtime.bundle import GRAPH_FILE
from ..runtime.cache import KVCache
from ..runtime.errors import QuantizationError
from ..runtime.session import Session
from ..runtime.settings import SessionSettings

Ranges = list[NDArray[np.float32]]  # per layer [2, kv_heads, head_size]: greatest magnitudes of keys, and of values
_CODES = 127  # the scale's multiples are whole numbers up to this, both ways
# Other texts go a little further than calibration's: a value that is cut off costs more than a step 1.1 times as wide.
_HEADROOM = 1.1
_PAST_INPUTS = {"key": 3, "value": 4}  # of GroupQueryAttention
_SCALE_INPUTS = {"key": 12, "value": 13}
_TYPE_ATTRIBUTES = {"key": "k_quant_type", "value": "v_quant_type"}
_WIDTH_ATTRIBUTE = "kv_cache_bit_width"


def shrink_cache(
    model: ir.Model,
    directory: Path,
    windows: Sequence[NDArray[np.int64]],
    *,
    threads: int | None = None,
    progress: Callable[[str, float | None], None] | None = None,
) -> None:
    """Calibrate the cache of a graph that was written to `directory`, and write the graph with an 8-bit one.

    The calibration runs the written graph itself, since rounded and smoothed weights change what is cached.

    Args:
        model: what was written; it is changed.
        directory: holds the graph's file, and its weights, to which the scales are added.
        windows: token ids int64 [window] each.
        threads: threads inside an operator.
        progress: as `onnxgpt.quantize.quantize_bundle`.

    Raises:
        QuantizationError: the graph has another attention than GroupQueryAttention, or a cache that is not float32.
    """
    find_attentions(model)
    session = Session.open(directory / GRAPH_FILE, SessionSettings(provider="cpu", threads=threads))
    quantize_cache(model, cache_statistics(session, windows, progress=progress))
    extend_model(model, directory)


def cache_statistics(
    session: Session,
    windows: Sequence[NDArray[np.int64]],
    *,
    progress: Callable[[str, float | None], None] | None = None,
) -> Ranges:
    """The greatest magnitudes that a float cache holds while the graph reads some windows of text.

    Args:
        session: of a graph whose past and present share a buffer.
        windows: token ids int64 [window] each.
        progress: as `onnxgpt.quantize.quantize_bundle`.

    Returns:
        Per layer [2, kv_heads, head_size]: of keys as they are cached, so after rotary position, and of values.
    """
    ranges: Ranges = [np.zeros((2, heads, size), np.float32) for heads, size in session.spec.layout.layers]
    for done, window in enumerate(windows):
        if progress is not None:
            progress("measuring the key/value cache", done / len(windows))
        with closing(session.new_cache(capacity=len(window), limit=len(window))) as cache:
            assert isinstance(cache, KVCache)
            session.step(window[None], cache)
            for greatest, buffer in zip(ranges, cache.buffers, strict=True):
                held = buffer[:, 0, :, : len(window)]  # [2, kv_heads, window, head_size]
                np.maximum(greatest, np.abs(held).max(axis=2), out=greatest)
    return ranges


def quantize_cache(model: ir.Model, ranges: Ranges) -> None:
    """Turn the cache of a graph into int8, with one scale per head and channel.

    Args:
        model: a graph whose attention is GroupQueryAttention alone; it is changed.
        ranges: per layer [2, kv_heads, head_size], as `cache_statistics` gives them.

    Raises:
        QuantizationError: the graph has another attention, or a cache that is not float32, or `ranges` are not finite.
    """
    attentions = find_attentions(model)
    if len(attentions) != len(ranges):
        raise QuantizationError(
            f"the graph caches {len(attentions)} layers and there are ranges for {len(ranges)}: expected as many"
        )
    for layer, (node, greatest) in enumerate(zip(attentions, ranges, strict=True)):
        if not np.isfinite(greatest).all():
            raise QuantizationError(
                f"keys or values of layer {layer} are not finite: expected finite ones; check the checkpoint's weights"
            )
        node.resize_inputs(max(len(node.inputs), max(_SCALE_INPUTS.values()) + 1))
        for kind, magnitudes in zip(("key", "value"), greatest, strict=True):
            scale = add_initializer(model, f"cache.{layer}.{kind}.scale", ir.tensor(cache_scale(magnitudes)))
            node.replace_input_with(_SCALE_INPUTS[kind], scale)
            node.attributes[_TYPE_ATTRIBUTES[kind]] = ir.AttrString(_TYPE_ATTRIBUTES[kind], "PER_CHANNEL")
        node.attributes[_WIDTH_ATTRIBUTE] = ir.AttrInt64(_WIDTH_ATTRIBUTE, 8)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if str(value.name).startswith(("past_key_values.", "present.")):
            value.type = ir.TensorType(ir.DataType.INT8)


def cache_scale(magnitudes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales [1, kv_heads, 1, head_size], what one step of a code is worth, from greatest magnitudes.

    A channel that is always zero gets a scale too, since the operator divides by it.
    """
    largest = np.maximum(magnitudes, np.finfo(np.float32).tiny * _CODES)
    scale: NDArray[np.float32] = (largest * np.float32(_HEADROOM / _CODES))[None, :, None, :]
    return scale


def find_attentions(model: ir.Model) -> list[ir.Node]:
    """The node that reads the past of each layer, layer by layer.

    Raises:
        QuantizationError: it is no GroupQueryAttention, or the cache is in codes already.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    found: list[ir.Node] = []
    while (name := f"past_key_values.{len(found)}.key") in inputs:
        readers = {kind: list(inputs[name.removesuffix("key") + kind].uses()) for kind in _PAST_INPUTS}  # key and value
        nodes = {use.node for uses in readers.values() for use in uses}
        node = next(iter(nodes), None)
        if node is None or len(nodes) > 1 or (node.domain, node.op_type) != (CONTRIB, "GroupQueryAttention"):
            operators = ", ".join(sorted(node.op_type for node in nodes)) or "nothing"
            raise QuantizationError(
                f"{name} is read by {operators}: an 8-bit cache needs ONNX Runtime's GroupQueryAttention, which "
                "--operators fused exports for head sizes that are multiples of 8; leave out the 8-bit cache"
            )
        dtype = inputs[name].dtype
        if dtype is None or not dtype.is_floating_point():
            raise QuantizationError(f"{name} is {dtype}: expected a float cache; start from the full-precision bundle")
        found.append(node)
    if not found:
        raise QuantizationError("the graph has no past_key_values: expected a GPT with a cache; export the model again")
    return found
