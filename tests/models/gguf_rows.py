"""Rows of GGUF's block types: quantized by the gguf package where it can, else made by hand of random codes."""

from __future__ import annotations

import gguf
import numpy as np

Kind = gguf.GGMLQuantizationType
FLOATS = ("F32", "F16", "BF16")
QUANTIZED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")  # by gguf itself
K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")  # which gguf can only dequantize
# Where ggml's structures have their float16: the scale, then the scale of the minima.
HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def encode(values: np.ndarray, kind: str) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    """A matrix [rows, width] as a GGUF file holds it; K-quants hold other weights, of about the same size."""
    if kind in K_QUANTS:
        return random_k_quants(*values.shape, kind, seed=values.size), Kind[kind]
    return gguf.quantize(values, Kind[kind]), Kind[kind]


def random_k_quants(rows: int, width: int, kind: str, *, seed: int, deviation: float = 0.1) -> np.ndarray:
    """Super-blocks of random codes, scales and minima, whose weights have about this standard deviation."""
    generator = np.random.default_rng(seed)
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[Kind[kind]]
    blocks = generator.integers(0, 256, (rows, width // block_size, block_bytes), dtype=np.uint8)
    factors = generator.uniform(0.5, 1.5, (len(HALVES[kind]), *blocks.shape[:2]))
    _set_halves(blocks, kind, factors * 2**-7)
    found = gguf.dequantize(blocks.reshape(rows, -1), Kind[kind]).std()
    _set_halves(blocks, kind, factors * 2**-7 * deviation / found)
    return blocks.reshape(rows, -1)


def _set_halves(blocks: np.ndarray, kind: str, numbers: np.ndarray) -> None:
    for start, each in zip(HALVES[kind], numbers, strict=True):
        blocks[..., start : start + 2] = each.astype(np.float16)[..., None].view(np.uint8)
