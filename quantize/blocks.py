"""How weights are packed into blocks: the layout that ONNX Runtime's MatMulNBits and GatherBlockQuantized read.

A matrix [in, out] is cut along `in` into blocks of `block_size` weights, padded with zeros at the end. Each block of
each column has one float32 scale and one zero; a weight is (code - zero) * scale, with codes of 8 or 4 bits. In
symmetric blocks the zero is 2 ** (bits - 1) and not stored. Blocks that come from elsewhere may have a shift, too,
which is added to each weight; no kernel reads it, so the product gets a term of its own (`graphs.block_nodes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import OptionError

Weights = NDArray[np.float32]
_PARTS_OF_RANGE = tuple(np.float32(part) for part in (1.0, 0.95, 0.9, 0.85, 0.8))
_BLOCK_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class BlockFormat:
    """Bits per weight, weights per block, and whether a block's range is centred on zero.

    Raises:
        OptionError: no kernel reads such blocks.
    """

    bits: int
    block_size: int
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise OptionError(f"{self.bits} bits: expected 4 or 8")
        if self.block_size not in _BLOCK_SIZES:
            raise OptionError(f"block size {self.block_size}: expected one of {', '.join(map(str, _BLOCK_SIZES))}")

    @classmethod
    def parse(cls, text: str, *, symmetric: bool | None = None) -> BlockFormat:
        """The format that `BITS:BLOCK` names; None: 8-bit blocks are symmetric, 4-bit blocks are not.

        Raises:
            OptionError: the text is no such pair, or no kernel reads such blocks.

        >>> BlockFormat.parse("4:32")
        BlockFormat(bits=4, block_size=32, symmetric=False)
        """
        bits, separator, block_size = text.partition(":")
        if not (separator and bits.isdecimal() and block_size.isdecimal()):
            raise OptionError(f"{text!r} is no block format: expected BITS:BLOCK, such as 8:128 or 4:32")
        return cls(int(bits), int(block_size), int(bits) == 8 if symmetric is None else symmetric)

    @property
    def zero(self) -> int:
        """The code of the weight 0 in symmetric blocks."""
        return int(2 ** (self.bits - 1))

    def dividing(self, length: int) -> BlockFormat:
        """With the largest blocks, up to this size, that divide a column of so many weights; as it is if none do."""
        sizes = [size for size in _BLOCK_SIZES if size <= self.block_size and length % size == 0]
        return replace(self, block_size=max(sizes)) if sizes else self

    def block_count(self, length: int) -> int:
        """Blocks that a column of so many weights takes."""
        return -(-length // self.block_size)

    def byte_count(self, rows: int, columns: int) -> int:
        """Bytes of codes, scales and zeros of a matrix [rows, columns]."""
        zero = 0 if self.symmetric else self.bits / 8
        return int(columns * self.block_count(rows) * (self.block_size * self.bits / 8 + 4 + zero))

    def round_weights(self, weights: Weights) -> Weights:
        """The weights [rows, columns] that the kernels compute with when each is rounded to its nearest code."""
        return unpack(quantize_nearest(weights, self))

    def round_inputs(self, values: Weights) -> Weights:
        """The input [rows, width] that the kernels compute with."""
        return round_activations(values, self.block_size)


@dataclass(frozen=True)
class BlockedMatrix:
    """A matrix [rows, columns] in blocks."""

    codes: NDArray[np.uint8]  # [columns, blocks, bytes]
    scales: Weights  # [columns, blocks]
    zeros: NDArray[np.uint8] | None  # [columns, bytes], packed as the codes are; None in symmetric blocks
    format: BlockFormat
    rows: int
    shifts: Weights | None = None  # [columns, blocks]; None: all are 0

    @classmethod
    def of_codes(
        cls, codes: NDArray[np.uint8], scales: Weights, form: BlockFormat, shifts: Weights | None = None
    ) -> BlockedMatrix:
        """Pack codes [columns, blocks, block size], one an element, of symmetric blocks without padding."""
        return cls(_pack_pairs(codes, form), scales, None, form, codes.shape[1] * codes.shape[2], shifts)

    def some_columns(self, part: slice) -> BlockedMatrix:
        """A view of some columns."""
        zeros = None if self.zeros is None else self.zeros[part]
        shifts = None if self.shifts is None else self.shifts[part]
        return replace(self, codes=self.codes[part], scales=self.scales[part], zeros=zeros, shifts=shifts)

    @property
    def columns(self) -> int:
        """Number of columns."""
        return int(self.codes.shape[0])


@dataclass(frozen=True)
class BlockGrid:
    """What the codes of one block mean: scales and zeros float32 [columns]."""

    scales: Weights
    zeros: Weights

    def codes(self, weights: Weights, form: BlockFormat) -> NDArray[np.uint8]:
        """The codes nearest to weights [..., columns]."""
        steps = np.rint(weights / self.scales) + self.zeros
        codes: NDArray[np.uint8] = np.clip(steps, 0, 2**form.bits - 1).astype(np.uint8)
        return codes

    def weights(self, codes: NDArray[np.uint8]) -> Weights:
        """The weights that codes [..., columns] stand for."""
        found: Weights = (codes.astype(np.float32) - self.zeros) * self.scales
        return found


def choose_grid(weights: Weights, form: BlockFormat, importance: Weights | None = None) -> BlockGrid:
    """The grid of each column of one block [block rows, columns]; a block of zeros has scale 1.

    Symmetric: the largest weight takes the lowest code, which is one step further from zero than the highest.
    Else: from the least weight to the largest. In 4 bits, less of that range is tried as well, from either end. Every
    scale tried is also fitted to its codes by least squares; what has the smallest squared error is taken.

    Args:
        importance: what each row's squared errors count, [block rows]; None: the same.
    """
    counts = np.ones((len(weights), 1), np.float32) if importance is None else importance[:, None]
    best: BlockGrid | None = None
    least: Weights = np.zeros(0, np.float32)
    for first in _grids_to_try(weights, form):
        for grid in (first, _fitted(first, weights, counts, form)):
            error = (counts * np.square(grid.weights(grid.codes(weights, form)) - weights)).sum(axis=0)
            if best is None:
                best, least = grid, error
            else:
                better = error < least
                best = BlockGrid(np.where(better, grid.scales, best.scales), np.where(better, grid.zeros, best.zeros))
                least = np.minimum(least, error)
    assert best is not None
    return best


def _grids_to_try(weights: Weights, form: BlockFormat) -> Iterator[BlockGrid]:
    parts = _PARTS_OF_RANGE if form.bits == 4 else _PARTS_OF_RANGE[:1]  # fine codes need no outliers cut off
    if form.symmetric:
        extreme = np.take_along_axis(weights, np.abs(weights).argmax(axis=0)[None], axis=0)[0]
        for part in parts:
            scales: Weights = extreme * part / np.float32(-form.zero)
            yield BlockGrid(np.where(scales == 0, np.float32(1), scales), np.full_like(scales, form.zero))
    else:
        low, high = weights.min(axis=0), weights.max(axis=0)
        for low_part in parts:
            for high_part in parts:
                yield _grid_of_range(low * low_part, high * high_part, form)


def _fitted(grid: BlockGrid, weights: Weights, counts: Weights, form: BlockFormat) -> BlockGrid:
    """The grid with the scales that fit its codes best."""
    steps = grid.codes(weights, form).astype(np.float32) - grid.zeros
    power = (counts * steps * steps).sum(axis=0)
    scales = (counts * steps * weights).sum(axis=0) / np.where(power == 0, np.float32(1), power)
    return BlockGrid(np.where(scales * grid.scales > 0, scales, grid.scales), grid.zeros)


def _grid_of_range(low: Weights, high: Weights, form: BlockFormat) -> BlockGrid:
    """The grid whose lowest and highest code stand for about these weights, and which has a code for 0."""
    steps = np.float32(2**form.bits - 1)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scales = (high - low) / steps
    scales = np.where(scales == 0, np.float32(1), scales)
    return BlockGrid(scales, np.clip(np.rint(-low / scales), 0, steps).astype(np.float32))


def quantize_nearest(weights: Weights, form: BlockFormat) -> BlockedMatrix:
    """Round every weight of a matrix [rows, columns] to its nearest code."""
    rows, columns = weights.shape
    builder = BlockBuilder(rows, columns, form)
    for index, block in builder.blocks():
        grid = builder.set_grid(index, choose_grid(weights[block], form))
        builder.codes[block] = grid.codes(weights[block], form)
    return builder.finish()


class BlockBuilder:
    """Codes and grids of a matrix [rows, columns] while they are being chosen, block by block."""

    def __init__(self, rows: int, columns: int, form: BlockFormat):
        count = form.block_count(rows)
        self.form = form
        self.rows = rows
        self.codes: NDArray[np.uint8] = np.full((count * form.block_size, columns), form.zero, np.uint8)
        self.scales: Weights = np.ones((count, columns), np.float32)
        self.zeros: Weights = np.full((count, columns), form.zero, np.float32)

    def blocks(self) -> Iterator[tuple[int, slice]]:
        """Each block's index and its rows."""
        size = self.form.block_size
        for index in range(len(self.scales)):
            yield index, slice(index * size, min((index + 1) * size, self.rows))

    def columns(self, part: slice) -> BlockBuilder:
        """A view of some columns: what is set there is set here."""
        view = object.__new__(BlockBuilder)
        view.form, view.rows = self.form, self.rows
        view.codes, view.scales, view.zeros = self.codes[:, part], self.scales[:, part], self.zeros[:, part]
        return view

    def set_grid(self, index: int, grid: BlockGrid) -> BlockGrid:
        """Take a block's grid; its padding then stands for 0."""
        self.scales[index], self.zeros[index] = grid.scales, grid.zeros
        padding = slice(self.rows, (index + 1) * self.form.block_size)
        self.codes[padding] = grid.zeros.astype(np.uint8)
        return grid

    def finish(self) -> BlockedMatrix:
        """Lay everything out as the kernels read it."""
        form, (count, columns) = self.form, self.scales.shape
        codes = _pack_pairs(np.ascontiguousarray(self.codes.T).reshape(columns, count, form.block_size), form)
        zeros = None if form.symmetric else _pack_pairs(np.ascontiguousarray(self.zeros.T).astype(np.uint8), form)
        return BlockedMatrix(codes, np.ascontiguousarray(self.scales.T), zeros, form, self.rows)


def _pack_pairs(codes: NDArray[np.uint8], form: BlockFormat) -> NDArray[np.uint8]:
    """Two codes of 4 bits a byte along the last axis, the earlier in the lower half; codes of 8 bits as they are."""
    if form.bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), np.uint8)], axis=-1)
    return np.bitwise_or(codes[..., 0::2], np.left_shift(codes[..., 1::2], 4), dtype=np.uint8)


def _unpack_pairs(codes: NDArray[np.uint8], form: BlockFormat) -> NDArray[np.uint8]:
    if form.bits == 8:
        return codes
    return np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], -1)


def unpack(matrix: BlockedMatrix) -> Weights:
    """The weights [rows, columns] that the kernels compute with."""
    form, count = matrix.format, matrix.scales.shape[1]
    zeros: Any = np.float32(form.zero)
    if matrix.zeros is not None:
        zeros = _unpack_pairs(matrix.zeros, form)[:, :count, None].astype(np.float32)
    weights = (_unpack_pairs(matrix.codes, form).astype(np.float32) - zeros) * matrix.scales[:, :, None]
    if matrix.shifts is not None:
        weights += matrix.shifts[:, :, None]
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
