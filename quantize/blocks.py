"""How weights are packed into blocks: the layout that ONNX Runtime's MatMulNBits and GatherBlockQuantized read.

A matrix [in, out] is cut along `in` into blocks of `block_size` weights, padded with zeros at the end. Each block of
each column has one float32 scale; a weight is (code - 2 ** (bits - 1)) * scale, with codes of 8 or 4 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import OptionError

Weights = NDArray[np.float32]
_BLOCK_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class BlockFormat:
    """Bits per weight and weights per block.

    Raises:
        OptionError: no kernel reads such blocks.
    """

    bits: int
    block_size: int

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise OptionError(f"{self.bits} bits: expected 4 or 8")
        if self.block_size not in _BLOCK_SIZES:
            raise OptionError(f"block size {self.block_size}: expected one of {', '.join(map(str, _BLOCK_SIZES))}")

    @property
    def zero(self) -> int:
        """The code of the weight 0."""
        return int(2 ** (self.bits - 1))

    def block_count(self, length: int) -> int:
        """Blocks that a column of so many weights takes."""
        return -(-length // self.block_size)

    def byte_count(self, rows: int, columns: int) -> int:
        """Bytes of codes and scales of a matrix [rows, columns]."""
        return columns * self.block_count(rows) * (self.block_size * self.bits // 8 + 4)

    def round_weights(self, weights: Weights) -> Weights:
        """The weights [rows, columns] that the kernels compute with when each is rounded to its nearest code."""
        return unpack(quantize_nearest(weights, self))

    def round_inputs(self, values: Weights) -> Weights:
        """The input [rows, width] that the kernels compute with."""
        return round_activations(values, self.block_size)


@dataclass(frozen=True)
class BlockedMatrix:
    """A matrix [rows, columns] in blocks: codes uint8 [columns, blocks, bytes], scales float32 [columns, blocks]."""

    codes: NDArray[np.uint8]
    scales: Weights
    format: BlockFormat
    rows: int

    @property
    def columns(self) -> int:
        """Number of columns."""
        return int(self.codes.shape[0])


def block_scales(weights: Weights, form: BlockFormat) -> Weights:
    """The scale of each column of one block [block rows, columns]: the largest weight takes the lowest code.

    The lowest code is one step further from zero than the highest, so the extreme weight decides the scale's sign.
    A block of zeros has scale 1.
    """
    extreme = np.take_along_axis(weights, np.abs(weights).argmax(axis=0)[None], axis=0)[0]
    scales: Weights = extreme / np.float32(-form.zero)
    return np.where(scales == 0, np.float32(1), scales)


def to_codes(weights: Weights, scales: Weights, form: BlockFormat) -> NDArray[np.uint8]:
    """The codes nearest to weights, by scales that broadcast against them."""
    steps = np.rint(weights / scales) + form.zero
    codes: NDArray[np.uint8] = np.clip(steps, 0, 2 * form.zero - 1).astype(np.uint8)
    return codes


def quantize_nearest(weights: Weights, form: BlockFormat) -> BlockedMatrix:
    """Round every weight of a matrix [rows, columns] to its nearest code."""
    rows, columns = weights.shape
    count = form.block_count(rows)
    padded = np.zeros((count * form.block_size, columns), np.float32)
    padded[:rows] = weights
    codes = np.empty(padded.shape, np.uint8)
    scales = np.empty((count, columns), np.float32)
    for index in range(count):
        block = slice(index * form.block_size, (index + 1) * form.block_size)
        scales[index] = block_scales(padded[block], form)
        codes[block] = to_codes(padded[block], scales[index], form)
    return pack(codes, scales, form, rows)


def pack(codes: NDArray[np.uint8], scales: Weights, form: BlockFormat, rows: int) -> BlockedMatrix:
    """Lay out codes [padded rows, columns] and scales [blocks, columns] as the kernels read them."""
    count, columns = scales.shape
    laid: NDArray[np.uint8] = np.ascontiguousarray(codes.T).reshape(columns, count, form.block_size)
    if form.bits == 4:  # two codes a byte, the earlier in the lower half
        laid = np.bitwise_or(laid[:, :, 0::2], np.left_shift(laid[:, :, 1::2], 4), dtype=np.uint8)
    return BlockedMatrix(np.ascontiguousarray(laid), np.ascontiguousarray(scales.T), form, rows)


def unpack(matrix: BlockedMatrix) -> Weights:
    """The weights [rows, columns] that the kernels compute with."""
    form, codes = matrix.format, matrix.codes
    if form.bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], form.block_size)
    weights = (codes.astype(np.float32) - np.float32(form.zero)) * matrix.scales[:, :, None]
    return np.ascontiguousarray(weights.reshape(matrix.columns, -1)[:, : matrix.rows].T)


def round_activations(values: Weights, block_size: int) -> Weights:
    """Activations [rows, width] as the kernels see them: 8-bit codes per block of a row, symmetric around zero."""
    rows, width = values.shape
    count = -(-width // block_size)
    padded = np.zeros((rows, count * block_size), np.float32)
    padded[:, :width] = values
    blocks = padded.reshape(rows, count, block_size)
    scales = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    scales = np.where(scales == 0, np.float32(1), scales)
    result: Weights = (np.rint(blocks / scales) * scales).reshape(rows, -1)[:, :width]
    return result
