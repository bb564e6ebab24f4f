"""Weights with one scale per output channel, as the ONNX domain's own integer operators read them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .blocks import Weights

if TYPE_CHECKING:
    from .calibration import InputStatistics

_LARGEST_CODE = 127  # -128 is left out, so that the codes are symmetric around zero
_STEPS = np.float32(255)  # between the lowest and the highest code of an activation, uint8
_PARTS_OF_RANGE = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
_COLUMNS_TO_JUDGE = 256  # of a wide matrix: enough to rank ranges by


@dataclass(frozen=True)
class ColumnMatrix:
    """A matrix [rows, columns]: codes int8 of that shape, scales float32 [columns]; a weight is code * scale."""

    codes: NDArray[np.int8]
    scales: Weights
    by_row: bool = False  # see ColumnFormat
    input_range: tuple[float, float] | None = None  # of the input, where it was fixed in advance


@dataclass(frozen=True)
class ColumnFormat:
    """How a product rounds: weights to 8 bits by column, its input to 8 bits by one range for all of it.

    Attributes:
        by_row: each row of the input is divided by its largest magnitude first, and the product multiplied by it, so
            that a row's range is its own.
    """

    by_row: bool = False

    def quantize(self, weights: Weights, statistics: InputStatistics | None, *, fixed_range: bool) -> ColumnMatrix:
        """A matrix [rows, columns] in codes, and the range of its input when it is asked for and there is one."""
        matrix = quantize_columns(weights)
        found = None
        if fixed_range and statistics is not None:
            samples = statistics.samples
            found = choose_range(samples / row_magnitudes(samples) if self.by_row else samples, weights, matrix)
        return replace(matrix, by_row=self.by_row, input_range=found)

    def round_weights(self, weights: Weights) -> Weights:
        """The weights [rows, columns] that the product is made with."""
        matrix = quantize_columns(weights)
        rounded: Weights = matrix.codes * matrix.scales
        return rounded

    def round_inputs(self, values: Weights) -> Weights:
        """The input [rows, width] that the product is made with."""
        if not self.by_row:
            return round_by_range(values, values.min(), values.max())
        largest = row_magnitudes(values)
        scaled = values / largest
        return round_by_range(scaled, scaled.min(), scaled.max()) * largest


def quantize_columns(weights: Weights) -> ColumnMatrix:
    """Round every weight of a matrix [rows, columns] to its nearest code. A column of zeros has scale 1."""
    scales: Weights = np.abs(weights).max(axis=0) / np.float32(_LARGEST_CODE)
    scales = np.where(scales == 0, np.float32(1), scales)
    return ColumnMatrix(np.rint(weights / scales).astype(np.int8), scales)


def choose_range(samples: Weights, weights: Weights, matrix: ColumnMatrix) -> tuple[float, float]:
    """The range of an input that costs the product of samples and weights the least.

    Each end is a part of the samples' own: outliers are often on one side only.
    """
    step = max(1, weights.shape[1] // _COLUMNS_TO_JUDGE)
    exact = samples @ weights[:, ::step]
    rounded = matrix.codes[:, ::step] * matrix.scales[::step]
    ends = float(samples.min()), float(samples.max())
    parts = [1.0, 1.0]

    def error(part: float, end: int) -> float:
        low, high = ((part if end == index else parts[index]) * ends[index] for index in (0, 1))
        product = round_by_range(samples, low, high) @ rounded
        return float(np.square(product - exact).sum(dtype=np.float64))

    for end in (1, 0, 1, 0):
        parts[end] = min(_PARTS_OF_RANGE, key=lambda part: error(part, end))
    return ends[0] * parts[0], ends[1] * parts[1]


def row_magnitudes(values: Weights) -> Weights:
    """The largest magnitude of each row of [rows, width], as [rows, 1]; never 0."""
    largest: Weights = np.maximum(np.abs(values).max(axis=-1, keepdims=True), np.float32(1e-20))
    return largest


def input_scale(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 codes for a range, widened to hold 0; as DynamicQuantizeLinear defines them."""
    bottom, top = np.float32(min(low, 0.0)), np.float32(max(high, 0.0))
    scale = (top - bottom) / _STEPS
    if scale == 0:
        return np.float32(1), np.uint8(0)
    return scale, np.uint8(np.clip(np.rint(-bottom / scale), 0, 255))


def round_by_range(values: Weights, low: float, high: float) -> Weights:
    """Values as uint8 codes of a range give them back; what is outside of it is clipped."""
    scale, zero = input_scale(low, high)
    offset = np.float32(zero)
    codes = np.clip(np.rint(values / scale) + offset, 0, _STEPS)
    rounded: Weights = ((codes - offset) * scale).astype(np.float32)
    return rounded
