"""Whether 8-bit and 4-bit products are fast here: measured against the product in float32, and judged by its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .findings import Finding
from .product_graph import blockwise_product, float_product

NAME = "int8 products"
_INPUTS = _OUTPUTS = 1536  # 9 MB in float32: beyond most second-level caches, made in a moment
_BLOCK_SIZE = 32
_REPEATS = 25
_WORST_ERROR = 0.02  # of the float product's largest value; rounding both sides to 8 bits costs some 0.005


@dataclass(frozen=True)
class ProductTimes:
    """The least seconds that a product of one row took, and how far that in 8 bits was off.

    Attributes:
        float_seconds: with weights in float32.
        int8_seconds: with weights in 8 bits, computed in int8.
        int4_seconds: with weights in 4 bits, computed in int8.
        error: the largest difference of the product in 8 bits, over the largest value.
    """

    float_seconds: float
    int8_seconds: float
    int4_seconds: float
    error: float


def measure_products(threads: int | None = None, accuracy_level: int = 4) -> ProductTimes:
    """Multiply one row by a matrix in three forms, by turns.

    Args:
        threads: of an operator; None: as many as there are by default.
        accuracy_level: of MatMulNBits: 4 computes in int8, 1 in float32.
    """
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((_INPUTS, _OUTPUTS), np.float32)
    row = generator.standard_normal((1, _INPUTS), np.float32)
    graphs = [float_product(weights), *(_quantized(weights, bits, accuracy_level) for bits in (8, 4))]
    runs = [_opened(graph, row, threads) for graph in graphs]
    expected, found = runs[0](), runs[1]()
    least = [float("inf")] * len(runs)
    for _ in range(_REPEATS):  # by turns, so that whatever else goes on here disturbs all alike
        for index, run in enumerate(runs):
            before = time.perf_counter()
            run()
            least[index] = min(least[index], time.perf_counter() - before)
    return ProductTimes(
        least[0], least[1], least[2], error=float(np.abs(found - expected).max() / np.abs(expected).max())
    )


def products_finding(times: ProductTimes, kernel: str | None) -> Finding:
    """Whether quantized bundles are worth it here.

    Args:
        times: what was measured.
        kernel: what the processor's features let expect, if that is known.
    """
    int8, int4 = times.float_seconds / times.int8_seconds, times.float_seconds / times.int4_seconds
    facts = {
        "float32_seconds": times.float_seconds,
        "int8_seconds": times.int8_seconds,
        "int4_seconds": times.int4_seconds,
        "int8_speedup": int8,
        "int4_speedup": int4,
        "int8_error": times.error,
        "kernel": kernel,
    }
    if not times.error <= _WORST_ERROR:
        found = f"a product in int8 is {times.error:.1%} off the same in float32, expected {_WORST_ERROR:.0%} at most"
        advice = (
            "this build of ONNX Runtime computes wrongly on this processor: install another version, or use float32"
        )
        return Finding(NAME, "fault", found, advice, ('pip install --upgrade "onnxgpt[cpu]"',), facts)
    found = f"{int8:.1f} times as fast as in float32 and int4 {int4:.1f} times, one row at a time"
    if int8 < 1:
        advice = "quantized bundles are slow here; where the machine was busy just now, ask again"
        return Finding(NAME, "note", f"{found}: no kernel of int8 seems to be used", advice, (), facts)
    used = f": {kernel} is used" if kernel else ""
    return Finding(NAME, "ok", f"{found}{used}", facts=facts)


def _quantized(weights: NDArray[np.float32], bits: int, accuracy_level: int) -> bytes:
    """The product with weights rounded to the nearest of a block's symmetric steps."""
    blocks = np.ascontiguousarray(weights.T).reshape(_OUTPUTS, -1, _BLOCK_SIZE)
    middle = 1 << (bits - 1)
    scales = np.abs(blocks).max(axis=2) / np.float32(middle - 1)
    quants = (np.rint(blocks / scales[..., None]) + middle).astype(np.uint8)
    if bits == 4:  # two to a byte, the first in the lower half
        quants = quants[..., 0::2] | quants[..., 1::2] << 4
    return blockwise_product(quants, scales, bits=bits, block_size=_BLOCK_SIZE, accuracy_level=accuracy_level)


def _opened(graph: bytes, row: NDArray[np.float32], threads: int | None) -> Callable[[], NDArray[np.float32]]:
    from ..runtime.engine import ort, session_options  # not before it is known that ONNX Runtime can be imported

    session: Any = ort.InferenceSession(graph, session_options(threads, None), providers=["CPUExecutionProvider"])
    return lambda: session.run(["y"], {"x": row})[0]
