"""GPTQ against a plain reference of the paper's algorithm, and against rounding to nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxgpt.quantize.blocks import BlockBuilder, BlockFormat, choose_grid, quantize_nearest, unpack
from onnxgpt.quantize.gptq import compensate, inverse_factor, quantize_compensated

FORMATS = [
    BlockFormat(4, 32),
    BlockFormat(4, 32, symmetric=False),
    BlockFormat(8, 32),
    BlockFormat(4, 16, symmetric=False),
]


def correlated_inputs(tokens: int, width: int) -> np.ndarray:
    generator = np.random.default_rng(2)
    mixed = generator.normal(size=(tokens, width // 3)) @ generator.normal(size=(width // 3, width))
    return (mixed + 0.3 * generator.normal(size=(tokens, width))).astype(np.float32)


def reference_gptq(weights: np.ndarray, moments: np.ndarray, form: BlockFormat) -> np.ndarray:
    """Algorithm 1 of Frantar et al. (2023) in float64, one row of [in, out] after another, nothing put off.

    The inverse is updated by Gaussian elimination after every row, as in the paper's equation 3, not by a Cholesky
    factor. Grids come from the weights as they are when their block begins, which the paper calls groups.
    """
    left = torch.tensor(weights, dtype=torch.float64)
    damped = torch.tensor(moments, dtype=torch.float64)
    damped += 0.01 * damped.diagonal().mean() * torch.eye(len(damped), dtype=torch.float64)
    inverse = torch.linalg.inv(damped)
    result = np.empty_like(weights)
    grid = None
    importance = (1 / torch.linalg.cholesky(inverse, upper=True).diagonal().square()).float().numpy()
    for row in range(len(weights)):
        if row % form.block_size == 0:
            block = slice(row, row + form.block_size)
            grid = choose_grid(left[block].float().numpy(), form, importance[block])
        assert grid is not None
        result[row] = grid.weights(grid.codes(left[row].float().numpy(), form))
        error = (left[row] - torch.tensor(result[row], dtype=torch.float64)) / inverse[row, row]
        left[row + 1 :] -= torch.outer(inverse[row + 1 :, row], error)
        inverse -= torch.outer(inverse[:, row], inverse[row]) / inverse[row, row]
    return result


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_equal_to_the_reference(form: BlockFormat) -> None:
    inputs = correlated_inputs(400, 72)  # no multiple of 32: the last block is cut short
    weights = np.random.default_rng(3).normal(size=(72, 20)).astype(np.float32)
    moments = inputs.T @ inputs / np.float32(len(inputs))
    builder = BlockBuilder(*weights.shape, form)
    compensate(weights.copy(), inverse_factor(moments), builder)
    found, expected = unpack(builder.finish()), reference_gptq(weights, moments, form)

    # float32 against float64: a weight near the middle between two codes may fall to the other side.
    assert np.isclose(found, expected, atol=1e-3).mean() > 0.98
    errors = [np.linalg.norm(inputs @ (result - weights)) for result in (found, expected)]
    assert errors[0] == pytest.approx(errors[1], rel=0.02)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_products_come_out_closer_than_by_rounding_to_nearest(form: BlockFormat) -> None:
    inputs = correlated_inputs(600, 96)
    calibration, unseen = inputs[:400], inputs[400:]
    weights = np.random.default_rng(4).normal(size=(96, 40)).astype(np.float32)
    compensated = quantize_compensated(weights, calibration.T @ calibration / np.float32(400), form)
    nearest = quantize_nearest(weights, form)
    errors = [np.linalg.norm(unseen @ (unpack(matrix) - weights)) for matrix in (compensated, nearest)]

    assert errors[0] < 0.7 * errors[1]


def test_a_channel_that_calibration_never_saw_does_no_harm() -> None:
    inputs = correlated_inputs(200, 64)
    inputs[:, 7] = 0.0
    weights = np.random.default_rng(5).normal(size=(64, 8)).astype(np.float32)
    found = unpack(quantize_compensated(weights, inputs.T @ inputs / np.float32(200), BlockFormat(8, 32)))

    assert np.abs(found - weights).max() < 0.2


def test_many_columns_are_the_same_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = correlated_inputs(200, 64)
    weights = np.random.default_rng(6).normal(size=(64, 50)).astype(np.float32)
    arguments = weights, inputs.T @ inputs / np.float32(200), BlockFormat(4, 32, symmetric=False)
    whole = quantize_compensated(*arguments)
    monkeypatch.setattr("onnxgpt.quantize.gptq._COLUMNS_AT_ONCE", 16)
    parts = quantize_compensated(*arguments)

    np.testing.assert_allclose(unpack(parts), unpack(whole), atol=1e-5)
