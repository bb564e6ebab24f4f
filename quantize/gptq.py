"""GPTQ (Frantar et al. 2023): rounding column by column, with each error made good by the weights still to come."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .blocks import BlockedMatrix, BlockFormat, Weights, block_scales, pack, to_codes

_DAMPING = 0.01  # of the mean diagonal, so that directions which calibration hardly saw stay stable
_COLUMNS_AT_ONCE = 4096  # few enough to stay in the processor's cache


def quantize_compensated(weights: Weights, second_moments: Weights, form: BlockFormat) -> BlockedMatrix:
    """Choose codes that keep the product's error small on inputs with the given second moments.

    Args:
        weights: [rows, columns] of y = x @ weights.
        second_moments: [rows, rows], the mean of x^T x over calibration.
        form: bits and block size.
    """
    rows, columns = weights.shape
    count = form.block_count(rows)
    codes = np.full((count * form.block_size, columns), form.zero, np.uint8)
    scales = np.ones((count, columns), np.float32)
    factor = _inverse_factor(second_moments)
    for start in range(0, columns, _COLUMNS_AT_ONCE):
        part = slice(start, start + _COLUMNS_AT_ONCE)
        _quantize_columns(weights[:, part].copy(), factor, form, codes[:, part], scales[:, part])
    return pack(codes, scales, form, rows)


def _inverse_factor(second_moments: Weights) -> Weights:
    """The upper Cholesky factor of the damped inverse: row i tells how an error in i is spread over what follows."""
    damped = second_moments.astype(np.float64)
    diagonal = np.einsum("ii->i", damped)
    diagonal += max(_DAMPING * diagonal.mean(), 1e-10)
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)


def _quantize_columns(
    weights: Weights, factor: Weights, form: BlockFormat, codes: NDArray[np.uint8], scales: Weights
) -> None:
    """Fill `codes` and `scales` for some columns; `weights` is used up."""
    rows = weights.shape[0]
    for index in range(form.block_count(rows)):
        start, stop = index * form.block_size, min((index + 1) * form.block_size, rows)
        scale = scales[index] = block_scales(weights[start:stop], form)
        errors = np.empty((stop - start, weights.shape[1]), np.float32)
        for row in range(start, stop):
            codes[row] = to_codes(weights[row], scale, form)
            rounded = (codes[row].astype(np.float32) - np.float32(form.zero)) * scale
            error = errors[row - start] = (weights[row] - rounded) / factor[row, row]
            weights[row + 1 : stop] -= factor[row, row + 1 : stop, None] * error
        weights[stop:] -= factor[start:stop, stop:].T @ errors
