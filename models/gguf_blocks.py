"""GGUF's block types as codes, scales and shifts: what a block holds, taken apart and not multiplied out.

A weight is (code - zero) * scale + shift, with zero = 2 ** (bits - 1). Codes of 5 and 6 bits are kept in 8, those of 2
and 3 in 4. Types with minima are written around the middle of their range, shift = minimum + middle * scale: codes are
then signed numbers for all types, so int8 activations lose the least.

Layouts: ggml's block structures (`block_q4_1`, `block_q4_K`, …) and the GGUF specification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gguf
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class StoredBlocks:
    """A matrix [out, in] as codes, the blocks along `in`."""

    bits: int  # 4 or 8
    codes: Bytes  # [out, blocks, block size], one code an element
    scales: Floats  # [out, blocks]
    shifts: Floats | None  # [out, blocks]; None: all are 0

    @property
    def size(self) -> int:
        """Weights of a block."""
        return int(self.codes.shape[-1])

    def widened(self, bits: int, size: int) -> StoredBlocks:
        """The same weights in more bits, or in smaller blocks that share what the larger one had."""
        times = self.size // size
        codes = self.codes + np.uint8(2 ** (bits - 1) - 2 ** (self.bits - 1))
        shifts = None if self.shifts is None else np.repeat(self.shifts, times, axis=1)
        return StoredBlocks(bits, codes.reshape(len(codes), -1, size), np.repeat(self.scales, times, axis=1), shifts)


@dataclass(frozen=True)
class _Taken:
    """What a decoder finds: codes [out, blocks, block size] from 0 on, scales and minima [out, blocks]."""

    codes: Bytes
    scales: Floats
    minima: Floats | None = None


def _half(blocks: Bytes, start: int) -> Floats:
    """The float16 that lies `start` bytes into each block [out, blocks, bytes]."""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16)[..., 0].astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """The lower halves of all bytes, then the upper ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _fields(packed: Bytes, width: int, bits: int) -> Bytes:
    """Bytes [out, blocks, n * width] as rows of `width`: of each n, first the lowest `bits` of all, then the next."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    groups = packed.reshape(*packed.shape[:-1], -1, 1, width)
    return ((groups >> shifts) & np.uint8(2**bits - 1)).reshape(*packed.shape[:-1], -1, width)


def _flat(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """[out, super-blocks, blocks, …] as [out, super-blocks * blocks, …]."""
    return values.reshape(len(values), -1, *values.shape[3:])


def _q8_0(blocks: Bytes) -> _Taken:
    return _Taken(blocks[..., 2:] ^ np.uint8(128), _half(blocks, 0))  # int8 to codes around 128


def _q4_0(blocks: Bytes) -> _Taken:
    return _Taken(_nibbles(blocks[..., 2:]), _half(blocks, 0))


def _q4_1(blocks: Bytes) -> _Taken:
    return _Taken(_nibbles(blocks[..., 4:]), _half(blocks, 0), _half(blocks, 2))


def _q5_0(blocks: Bytes) -> _Taken:
    return _Taken(_nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6]), _half(blocks, 0))


def _q5_1(blocks: Bytes) -> _Taken:
    return _Taken(_nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8]), _half(blocks, 0), _half(blocks, 2))


def _fifth_bits(packed: Bytes) -> Bytes:
    return np.unpackbits(packed, axis=-1, bitorder="little") << np.uint8(4)


def _q2_k(blocks: Bytes) -> _Taken:
    """16 blocks of 16; a byte of `scales` is scale and minimum."""
    codes = _fields(blocks[..., 16:80], 32, 2).reshape(*blocks.shape[:2], 16, 16)
    packed = blocks[..., :16]
    return _k_blocks(codes, _half(blocks, 80), packed & 15, _half(blocks, 82), packed >> np.uint8(4))


def _q3_k(blocks: Bytes) -> _Taken:
    """16 blocks of 16, the third bits in a mask of their own, scales of 6 bits."""
    third = _fields(blocks[..., :32], 32, 1)
    codes = (_fields(blocks[..., 32:96], 32, 2) | (third << np.uint8(2))).reshape(*blocks.shape[:2], 16, 16)
    packed = blocks[..., 96:108]
    upper = _fields(packed[..., 8:], 4, 2).reshape(*blocks.shape[:2], 16)
    scales = (_nibbles(packed[..., :8]) | (upper << np.uint8(4))).astype(np.int8) - np.int8(32)
    return _k_blocks(codes, _half(blocks, 108), scales)


def _q4_k(blocks: Bytes) -> _Taken:
    scales, minima = _six_bits(blocks[..., 4:16])
    return _k_blocks(_fields(blocks[..., 16:144], 32, 4), _half(blocks, 0), scales, _half(blocks, 2), minima)


def _q5_k(blocks: Bytes) -> _Taken:
    scales, minima = _six_bits(blocks[..., 4:16])
    codes = _fields(blocks[..., 48:176], 32, 4) | (_fields(blocks[..., 16:48], 32, 1) << np.uint8(4))
    return _k_blocks(codes, _half(blocks, 0), scales, _half(blocks, 2), minima)


def _q6_k(blocks: Bytes) -> _Taken:
    """16 blocks of 16 with scales of 8 bits, lower and upper bits apart."""
    lower = _fields(blocks[..., :128], 64, 4).reshape(*blocks.shape[:2], 8, 32)
    codes = (lower | (_fields(blocks[..., 128:192], 32, 2) << np.uint8(4))).reshape(*blocks.shape[:2], 16, 16)
    return _k_blocks(codes, _half(blocks, 208), np.ascontiguousarray(blocks[..., 192:208]).view(np.int8))


def _six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Scales and minima [out, blocks, 8] of `get_scale_min_k4`: four whole ones, four with their upper bits there."""
    first, second, last = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([first & 63, (last & 15) | ((first >> 6) << np.uint8(4))], axis=-1)
    minima = np.concatenate([second & 63, (last >> 4) | ((second >> 6) << np.uint8(4))], axis=-1)
    return scales, minima


def _k_blocks(
    codes: Bytes,
    scale: Floats,
    scales: NDArray[np.integer],
    minimum: Floats | None = None,
    minima: Bytes | None = None,
) -> _Taken:
    """Blocks whose scales and minima are small integers times one float16 of the super-block."""
    own = None
    if minimum is not None and minima is not None:
        own = _flat(-(minimum[..., None] * minima.astype(np.float32)))
    return _Taken(_flat(codes), _flat(scale[..., None] * scales.astype(np.float32)), own)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _BlockType:
    bits: int  # of the codes when they are kept
    middle: int  # the code that stands for 0, or for the middle of the range
    take: Callable[[Bytes], _Taken]


_TYPES: dict[str, _BlockType] = {
    "Q8_0": _BlockType(8, 128, _q8_0),
    "Q4_0": _BlockType(4, 8, _q4_0),
    "Q4_1": _BlockType(4, 8, _q4_1),
    "Q5_0": _BlockType(8, 16, _q5_0),
    "Q5_1": _BlockType(8, 16, _q5_1),
    "Q2_K": _BlockType(4, 2, _q2_k),
    "Q3_K": _BlockType(4, 4, _q3_k),
    "Q4_K": _BlockType(4, 8, _q4_k),
    "Q5_K": _BlockType(8, 16, _q5_k),
    "Q6_K": _BlockType(8, 32, _q6_k),
}
KEPT_KINDS = tuple(_TYPES)


def take_apart(kind: str, data: Bytes) -> StoredBlocks:
    """The blocks of rows [out, bytes] of a type, one of `KEPT_KINDS`."""
    _, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    chosen = _TYPES[kind]
    taken = chosen.take(data.reshape(len(data), -1, block_bytes))
    codes = taken.codes + np.uint8(2 ** (chosen.bits - 1) - chosen.middle)
    shifts = None if taken.minima is None else taken.minima + np.float32(chosen.middle) * taken.scales
    return StoredBlocks(chosen.bits, codes, taken.scales, shifts)
