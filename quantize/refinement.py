"""Refinement of a rounded matrix: scales fitted to the codes, and codes to the scales, by turns.

Both steps lower the same error, that of the product on inputs with given second moments: x @ (weights - rounded),
squared and averaged. Scales: least squares over all blocks of a column together. Codes: coordinate descent, each
weight to the code that is best given all others (as QuantEase, Behdin et al. 2023).
"""

from __future__ import annotations

import numpy as np

from .blocks import BlockBuilder, BlockGrid, Weights

_ROUNDS = 3
_DAMPING = 0.003  # of the mean diagonal: keeps directions that calibration hardly saw from being spent on others
_RIDGE = 1e-6  # of the mean diagonal of a column's equations, which may say nothing about a block


def refine(weights: Weights, second_moments: Weights, builder: BlockBuilder) -> None:
    """Improve codes and scales that are a good start.

    Args:
        weights: [rows, columns] in full precision.
        second_moments: [rows, rows], the mean of x^T x over calibration.
        builder: the codes and grids of the same columns; changed in place.
    """
    damped = second_moments.copy()
    diagonal = np.einsum("ii->i", damped)
    diagonal += max(_DAMPING * float(diagonal.mean()), 1e-10)
    wanted = damped @ weights
    fit_scales(damped, wanted, builder)
    for _ in range(_ROUNDS):
        descend(weights, damped, builder)
        fit_scales(damped, wanted, builder)


def fit_scales(second_moments: Weights, wanted: Weights, builder: BlockBuilder) -> None:
    """Give every block of every column the scale that is best for the codes as they are.

    Args:
        second_moments: [rows, rows], damped.
        wanted: second_moments @ weights, [rows, columns].
    """
    blocks = [block for _, block in builder.blocks()]
    starts = [block.start for block in blocks]
    steps = np.concatenate([builder.codes[block].astype(np.float32) - zeros for block, zeros in _with_zeros(builder)])
    right = np.add.reduceat(steps * wanted, starts, axis=0)  # [blocks, columns]
    left = np.empty((steps.shape[1], len(blocks), len(blocks)))
    for index, block in enumerate(blocks):
        product = second_moments[:, block] @ steps[block]
        left[:, :, index] = np.add.reduceat(steps * product, starts, axis=0).T
    traces = np.einsum("cii->c", left) / len(blocks)
    np.einsum("cii->ci", left)[...] += (_RIDGE * traces + 1e-30)[:, None]
    # The ridge pulls towards the scales as they are, so that a block about which nothing is known keeps its own.
    right = right.T + (_RIDGE * traces + 1e-30)[:, None] * builder.scales.T
    scales = np.linalg.solve(left, right[:, :, None])[:, :, 0].T
    builder.scales[...] = np.where(scales * builder.scales > 0, scales, builder.scales)


def descend(weights: Weights, second_moments: Weights, builder: BlockBuilder) -> None:
    """Give every weight in turn the code that is best with all others as they are.

    Args:
        weights: [rows, columns] in full precision.
        second_moments: [rows, rows], damped.
    """
    errors = weights.copy()
    for index, block in builder.blocks():
        errors[block] -= _grid(builder, index).weights(builder.codes[block])
    for index, block in builder.blocks():
        grid, near = _grid(builder, index), second_moments[block, block]
        slopes = second_moments[block] @ errors
        for place, row in enumerate(range(block.start, block.stop)):
            now = grid.weights(builder.codes[row])
            builder.codes[row] = grid.codes(now + slopes[place] / near[place, place], builder.form)
            change = grid.weights(builder.codes[row]) - now
            errors[row] -= change
            slopes -= near[:, place, None] * change


def _grid(builder: BlockBuilder, index: int) -> BlockGrid:
    return BlockGrid(builder.scales[index], builder.zeros[index])


def _with_zeros(builder: BlockBuilder) -> list[tuple[slice, Weights]]:
    return [(block, builder.zeros[index]) for index, block in builder.blocks()]
