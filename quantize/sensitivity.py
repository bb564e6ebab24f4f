"""Sensitivity: what rounding one matrix alone costs the whole model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..graphs.editing import CONTRIB, read_weights
from ..runtime.session import PlainGraph
from .blocks import BlockFormat, Weights, quantize_nearest
from .blockwise import product_attributes
from .segments import empty_pasts

Progress = Callable[[str, float | None], None]


def measure_sensitivity(
    model: ir.Model,
    directory: Path,
    products: dict[str, str],
    form: BlockFormat,
    window: NDArray[np.int64],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """The mean KL divergence, in nats, that rounding each matrix to its nearest codes adds on a window of text.

    Args:
        model: the full-precision graph, whose weights lie in `directory`.
        products: the node that multiplies by each matrix, by the matrix's name; the matrices are stored [in, out].
        form: the blocks to try.
        window: token ids int64 [window].
    """
    proto = ir.to_proto(model)
    exact = _log_probabilities(proto, directory, window, threads)
    found = {}
    for index, (name, node) in enumerate(products.items()):
        if progress is not None:
            progress(f"measuring what {name} bears", index / len(products))
        rounded = _with_rounded(proto, node, name, read_weights(model.graph, name), form)
        ours = _log_probabilities(rounded, directory, window, threads)
        found[name] = float((np.exp(exact) * (exact - ours)).sum(axis=-1).mean())
    return found


def _with_rounded(proto: onnx.ModelProto, node: str, name: str, weights: Weights, form: BlockFormat) -> onnx.ModelProto:
    """The graph with one product in blocks."""
    matrix = quantize_nearest(weights, form)
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    product = next(item for item in changed.graph.node if item.name == node)
    arrays: dict[str, NDArray[Any]] = {f"{name}.codes": matrix.codes, f"{name}.scales": matrix.scales}
    if matrix.zeros is not None:
        arrays[f"{name}.zeros"] = matrix.zeros
    changed.graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in arrays.items())
    attributes: dict[str, Any] = product_attributes(matrix)
    rewritten = onnx.helper.make_node(
        "MatMulNBits", [product.input[0], *arrays], list(product.output), domain=CONTRIB, **attributes
    )
    product.CopyFrom(rewritten)
    return changed


def _log_probabilities(
    proto: onnx.ModelProto, directory: Path, window: NDArray[np.int64], threads: int | None
) -> Weights:
    graph = PlainGraph(proto.SerializeToString(), directory, threads)
    ids = window[None]
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)} | empty_pasts(graph)
    logits: Weights = graph.run(["logits"], feeds)["logits"][0]
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits
