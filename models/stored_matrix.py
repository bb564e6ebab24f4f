"""The matrices of a GGUF file in the blocks in which they are stored, for an export that keeps them.

A weight of a block is (code - zero) * scale + shift, with zero = 2 ** (bits - 1). The types with minima are written
around the same zero as those without, shift = minimum + zero * scale, so that codes are signed numbers for all of
them: int8 activations then lose the least, and the shift is what remains of the minimum.

Layouts of blocks: the GGUF specification and ggml's block structures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from .weight_rules import Layout, Shape

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class StoredBlocks:
    """A matrix [out, in] as codes, the blocks along `in`."""

    bits: int  # 4 or 8
    codes: Bytes  # [out, blocks, block size], one code an element
    scales: Floats  # [out, blocks]
    shifts: Floats | None  # [out, blocks]; None: all are 0


@dataclass(frozen=True)
class StoredMatrix:
    """Rows of a tensor as they lie in the file, which stays mapped; nothing is decoded before `blocks` is called."""

    kind: str  # GGUF's name of the type: Q4_1
    data: NDArray[np.generic]  # [rows, bytes], or [rows, width] of floats
    rows: NDArray[np.int64]  # [out], the row of `data` that is each row of this matrix, in the GPT's order

    @property
    def has_blocks(self) -> bool:
        """Whether its type is one whose blocks can be taken over."""
        return self.kind in _DECODERS

    def blocks(self) -> StoredBlocks:
        """The blocks, row by row; for a type that `has_blocks`."""
        bits, decode = _DECODERS[self.kind]
        _, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.kind]]
        data = np.ascontiguousarray(self.data[self.rows], np.uint8)
        blocks = data.reshape(len(data), -1, block_bytes)
        codes, scales, minima = decode(blocks)
        shifts = None if minima is None else minima + np.float32(2 ** (bits - 1)) * scales
        return StoredBlocks(bits, codes, scales, shifts)


def matrices_of(
    kind: str, data: NDArray[np.generic], layout: Layout, targets: Sequence[str], shapes: Sequence[Shape]
) -> dict[str, StoredMatrix]:
    """The matrices that one stored tensor holds, by their canonical names.

    A layout is followed by what it does to a tensor whose only column is the number of each row: it may split rows
    and put them into another order.

    Args:
        kind: GGUF's name of the tensor's type.
        data: [rows, bytes], as mapped.
        layout: how the tensor holds the canonical ones.
        targets: their names.
        shapes: their shapes; matrices are [in, out], embeddings [rows, width].
    """
    narrow = [
        (shape[0], 1) if "_embedding." in target else (1, shape[1])
        for target, shape in zip(targets, shapes, strict=True)
    ]
    parts = layout.unpack(torch.arange(len(data))[:, None], narrow)
    return {
        target: StoredMatrix(kind, data, part.reshape(-1).numpy()) for target, part in zip(targets, parts, strict=True)
    }


Decoded = tuple[Bytes, Floats, Floats | None]  # codes, scales, minima


def _halves(blocks: Bytes, start: int) -> Floats:
    """The float16 that lies `start` bytes into each block [out, blocks, bytes]."""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16)[..., 0].astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """The lower halves of all bytes, then the upper ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _q8_0(blocks: Bytes) -> Decoded:
    return blocks[..., 2:] ^ np.uint8(128), _halves(blocks, 0), None  # int8 to codes around 128


def _q4_0(blocks: Bytes) -> Decoded:
    return _nibbles(blocks[..., 2:]), _halves(blocks, 0), None


def _q4_1(blocks: Bytes) -> Decoded:
    return _nibbles(blocks[..., 4:]), _halves(blocks, 0), _halves(blocks, 2)


_DECODERS: dict[str, tuple[int, Callable[[Bytes], Decoded]]] = {
    "Q8_0": (8, _q8_0),
    "Q4_0": (4, _q4_0),
    "Q4_1": (4, _q4_1),
}
KEPT_KINDS = tuple(_DECODERS)
