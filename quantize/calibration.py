"""Calibration: what goes into each matrix while the full-precision graph reads a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .blocks import Weights
from .segments import SegmentedReading


@dataclass
class InputStatistics:
    """Of one matrix's input [tokens, rows]: second moments float32 [rows, rows], and some rows as samples."""

    second_moments: Weights
    samples: Weights

    def scaled(self, scale: Weights) -> InputStatistics:
        """Of the same input with its channels divided by `scale` [rows]."""
        return InputStatistics(self.second_moments / scale / scale[:, None], self.samples / scale)


def record_inputs(
    reading: SegmentedReading, inputs: Mapping[str, str], samples_per_window: int = 32
) -> dict[str, InputStatistics]:
    """Read on through the text and gather statistics of what goes into some matrices.

    Args:
        reading: the text on its way through the graph.
        inputs: the name of the value that goes into each matrix, by the matrix's name.
        samples_per_window: rows that are kept of each window, evenly spread.

    Returns:
        Statistics by the matrix's name.
    """
    names = sorted(set(inputs.values()))
    sums: dict[str, Weights] = {}
    samples: dict[str, list[Weights]] = {name: [] for name in names}
    tokens = 0
    for window in reading.read(names):
        for name, array in window.items():
            values = array.reshape(-1, array.shape[-1]).astype(np.float32, copy=False)
            moments = values.T @ values
            sums[name] = sums[name] + moments if name in sums else moments
            samples[name].append(values[:: max(1, len(values) // samples_per_window)].copy())
        tokens += len(values)
    found = {name: InputStatistics(sums[name] / np.float32(tokens), np.concatenate(samples[name])) for name in names}
    return {matrix: found[name] for matrix, name in inputs.items()}
