"""Smoothing: outliers of activations folded into weights, through what stands before a matrix.

A matrix's input channels may be divided by any scale when its rows are multiplied by it (Xiao et al. 2023,
SmoothQuant). The division costs nothing where the norm, or the columns of the matrix before, can take it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .blocks import Weights
from .calibration import InputStatistics

_COLUMNS_TO_JUDGE = 1024  # of a wide matrix: enough to rank scales by
_STRENGTHS = (0.3, 0.5, 0.7)
_BALANCES = (0.5, 0.65, 0.8)


Sharing = tuple[int, int, int]  # rows as [outer, shared, inner]: those that differ in the middle have one scale


class Rounding(Protocol):
    """What a product's weights [rows, columns] and its input [tokens, rows] become before they are multiplied."""

    def round_weights(self, weights: Weights) -> Weights:
        """The weights as the product is made with them."""
        ...

    def round_inputs(self, values: Weights) -> Weights:
        """The input as the product is made with it."""
        ...


def choose_scale(
    weights: Weights, statistics: InputStatistics, form: Rounding, sharing: Sharing | None = None
) -> Weights:
    """The scale [rows] under which rounding weights and activations costs the product the least.

    Args:
        weights: [rows, columns].
        statistics: of the matrix's input.
        form: how weights and activations will be rounded.
        sharing: which rows must have one scale, as the query heads that read one value head must; None: every row
            its own.
    """
    step = max(1, weights.shape[1] // _COLUMNS_TO_JUDGE)
    judged = np.ascontiguousarray(weights[:, ::step])
    exact = statistics.samples @ judged
    best, least = np.ones(len(weights), np.float32), _rounding_error(judged, statistics.samples, exact, form)
    for scale in _candidates(weights, statistics):
        shared = _share(scale, sharing)
        error = _rounding_error(judged * shared[:, None], statistics.samples / shared, exact, form)
        if error < least:
            best, least = shared, error
    return best


def _candidates(weights: Weights, statistics: InputStatistics) -> Iterator[Weights]:
    """Scales by the root mean square of each channel, and by SmoothQuant's balance of largest values."""
    rms = np.sqrt(np.einsum("ii->i", statistics.second_moments)) + np.float32(1e-8)
    for strength in _STRENGTHS:
        yield _centred(rms**strength)
    largest = np.abs(statistics.samples).max(axis=0) + np.float32(1e-8)
    weight = np.abs(weights).max(axis=1) + np.float32(1e-8)
    for balance in _BALANCES:
        yield _centred(largest**balance / weight ** (1 - balance))


def _centred(scale: Weights) -> Weights:
    """With a geometric mean of 1, and no channel moved by more than a factor of 10,000."""
    logs = np.log(scale)
    centred: Weights = np.exp(np.clip(logs - logs.mean(), -9.2, 9.2)).astype(np.float32)
    return centred


def _share(scale: Weights, sharing: Sharing | None) -> Weights:
    if sharing is None:
        return scale
    means = np.log(scale).reshape(sharing).mean(axis=1, keepdims=True)
    return np.broadcast_to(np.exp(means), sharing).reshape(-1).astype(np.float32)


def _rounding_error(weights: Weights, samples: Weights, exact: NDArray[np.float32], form: Rounding) -> float:
    rounded = form.round_inputs(samples) @ form.round_weights(weights)
    return float(np.square(rounded - exact).sum(dtype=np.float64))
