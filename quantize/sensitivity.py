"""Sensitivity: what rounding one matrix alone costs the whole model.

A text is read block by block, once in full precision and, from each matrix on, once more with that matrix rounded: all
these streams travel together, so that one block's weights at a time are in memory and nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..graphs.block_nodes import product_attributes
from ..graphs.editing import CONTRIB, read_weights
from ..runtime.errors import QuantizationError
from .blocks import BlockFormat, Weights, quantize_nearest
from .residuals import find_residuals
from .segments import Change, SegmentedReading

Progress = Callable[[str, float | None], None]


def measure_sensitivity(
    model: ir.Model,
    directory: Path,
    products: Mapping[str, str],
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

    Raises:
        QuantizationError: the graph has no residual stream to follow.
    """
    boundaries = [str(value.name) for value in find_residuals(model)]
    reading = SegmentedReading(model, directory, [window], threads)
    names: list[str] = []  # of the matrices, in the order of their streams
    for layer, boundary in enumerate(boundaries):
        if progress is not None:
            progress("measuring what each matrix bears", layer / len(boundaries))
        inside = reading.nodes_of([boundary])
        here = {name: node for name, node in products.items() if node in inside}
        branches = reading.branch([boundary], [_rounded(model, name, node, form) for name, node in here.items()])
        for _ in reading.read([boundary]):
            pass
        reading.join(branches)
        names += here
    if len(names) < len(products):
        raise QuantizationError(
            f"{len(products) - len(names)} matrices lie outside of the graph's residual stream: name what is to be "
            "raised in raised_matrices, or choose the recipe int8"
        )
    streams = (_log_probabilities(values["logits"][0]) for values in reading.read(["logits"]))
    exact = next(streams)
    chances = np.exp(exact)
    return {
        name: float(np.einsum("tv,tv->", chances, exact - ours) / len(window))
        for name, ours in zip(names, streams, strict=True)
    }


def _rounded(model: ir.Model, name: str, node: str, form: BlockFormat) -> Change:
    """A product with its matrix in blocks."""
    product = next(item for item in model.graph if item.name == node)
    matrix = quantize_nearest(read_weights(model.graph, name), form)
    arrays: dict[str, Weights | NDArray[np.uint8]] = {f"{name}.codes": matrix.codes, f"{name}.scales": matrix.scales}
    if matrix.zeros is not None:
        arrays[f"{name}.zeros"] = matrix.zeros
    assert product.inputs[0] is not None
    attributes: dict[str, Any] = product_attributes(matrix)  # the helper takes any value as a keyword
    rewritten = onnx.helper.make_node(
        "MatMulNBits",
        [str(product.inputs[0].name), *arrays],
        [str(output.name) for output in product.outputs],
        name=node,
        domain=CONTRIB,
        **attributes,
    )
    return Change(rewritten, [onnx.numpy_helper.from_array(array, key) for key, array in arrays.items()])


def _log_probabilities(logits: Weights) -> Weights:
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits
