"""GPTQ (Frantar et al. 2023): rounding column by column, with each error made good by the weights still to come."""

from __future__ import annotations

import numpy as np

from .blocks import BlockBuilder, BlockedMatrix, BlockFormat, Weights, choose_grid
from .refinement import refine

_DAMPING = 0.01  # of the mean diagonal, so that directions which calibration hardly saw stay stable
_COLUMNS_AT_ONCE = 4096  # few enough to stay in the processor's cache


def quantize_compensated(weights: Weights, second_moments: Weights, form: BlockFormat) -> BlockedMatrix:
    """Choose codes and scales that keep the product's error small on inputs with the given second moments.

    Args:
        weights: [rows, columns] of y = x @ weights.
        second_moments: [rows, rows], the mean of x^T x over calibration.
        form: bits and block size.
    """
    rows, columns = weights.shape
    builder = BlockBuilder(rows, columns, form)
    factor = inverse_factor(second_moments)
    for start in range(0, columns, _COLUMNS_AT_ONCE):
        part = slice(start, start + _COLUMNS_AT_ONCE)
        compensate(weights[:, part].copy(), factor, builder.columns(part))
        refine(weights[:, part], second_moments, builder.columns(part))
    return builder.finish()


def inverse_factor(second_moments: Weights) -> Weights:
    """The upper Cholesky factor of the damped inverse: row i tells how an error in i is spread over what follows."""
    damped = second_moments.astype(np.float64)
    diagonal = np.einsum("ii->i", damped)
    diagonal += max(_DAMPING * diagonal.mean(), 1e-10)
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)


def compensate(weights: Weights, factor: Weights, builder: BlockBuilder) -> None:
    """Choose the codes of some columns [rows, columns] as the paper does; `weights` is used up.

    Args:
        factor: of the inverse of the inputs' second moments, upper triangular [rows, rows].
    """
    importance = np.square(np.reciprocal(np.diagonal(factor)))  # what an error costs once it is made good as it can be
    for index, block in builder.blocks():
        grid = builder.set_grid(index, choose_grid(weights[block], builder.form, importance[block]))
        errors = np.empty((block.stop - block.start, weights.shape[1]), np.float32)
        for row in range(block.start, block.stop):
            codes = builder.codes[row] = grid.codes(weights[row], builder.form)
            error = errors[row - block.start] = (weights[row] - grid.weights(codes)) / factor[row, row]
            weights[row + 1 : block.stop] -= factor[row, row + 1 : block.stop, None] * error
        weights[block.stop :] -= factor[block, block.stop :].T @ errors
