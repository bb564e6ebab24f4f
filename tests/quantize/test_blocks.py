"""Blocks as ONNX Runtime's own kernels read them: MatMulNBits and GatherBlockQuantized."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxgpt.quantize.blocks import (
    BlockedMatrix,
    BlockFormat,
    quantize_nearest,
    round_activations,
    unpack,
)
from onnxgpt.runtime.errors import OptionError

FORMATS = [
    BlockFormat(bits, size, symmetric) for bits in (4, 8) for size in (16, 32, 128) for symmetric in (True, False)
]
SHAPES = [(128, 24), (100, 17), (16, 3), (130, 5)]  # widths that are no multiple of the block, and an odd block count


def random_weights(rows: int, columns: int) -> np.ndarray:
    weights = np.random.default_rng(rows * columns).normal(0.05, 0.3, (rows, columns)).astype(np.float32)
    weights[:, 0] = 0.0  # a column of zeros has no scale of its own
    return weights


def run_one_node(node: onnx.NodeProto, feeds: dict[str, np.ndarray], tensors: dict[str, np.ndarray]) -> np.ndarray:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph([node], "one node", inputs, [output], initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def multiply(inputs: np.ndarray, matrix: BlockedMatrix, accuracy_level: int) -> np.ndarray:
    tensors = {"codes": matrix.codes, "scales": matrix.scales}
    if matrix.zeros is not None:
        tensors["zeros"] = matrix.zeros
    node = helper.make_node(
        "MatMulNBits",
        ["x", *tensors],
        ["y"],
        domain="com.microsoft",
        K=matrix.rows,
        N=matrix.columns,
        bits=matrix.format.bits,
        block_size=matrix.format.block_size,
        accuracy_level=accuracy_level,
    )
    return run_one_node(node, {"x": inputs}, tensors)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_the_product_kernel_reads_the_weights_that_unpack_tells(form: BlockFormat, shape: tuple[int, int]) -> None:
    matrix = quantize_nearest(random_weights(*shape), form)
    # Multiplying by the identity shows every weight; fp32 activations add no rounding of their own.
    found = multiply(np.eye(shape[0], dtype=np.float32), matrix, accuracy_level=1)

    np.testing.assert_allclose(found, unpack(matrix), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", [form for form in FORMATS if form.symmetric], ids=str)
def test_the_lookup_kernel_reads_the_same_codes(form: BlockFormat, shape: tuple[int, int]) -> None:
    matrix = quantize_nearest(random_weights(*shape), form)
    ids = np.array([0, matrix.columns - 1, 1, 1])
    node = helper.make_node(
        "GatherBlockQuantized",
        ["codes", "ids", "scales"],
        ["rows"],
        domain="com.microsoft",
        gather_axis=0,
        quantize_axis=2,
        block_size=form.block_size,
        bits=form.bits,
    )
    found = run_one_node(node, {"ids": ids}, {"codes": matrix.codes, "scales": matrix.scales[:, :, None]})

    np.testing.assert_allclose(found.reshape(4, -1)[:, : shape[0]], unpack(matrix).T[ids], rtol=0, atol=1e-4)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_no_weight_is_further_from_its_code_than_half_a_step(form: BlockFormat) -> None:
    weights = random_weights(100, 17)
    matrix = quantize_nearest(weights, form)
    steps = np.repeat(np.abs(matrix.scales), form.block_size, axis=1)[:, :100].T
    # 8 bits: the extreme opposite to the largest weight may be cut by half a step. 4 bits: a zero is rounded, too, and
    # up to a fifth of the range may be cut where that lessens the squared error.
    allowed = 1.0 if form.bits == 8 else 1.0 + 0.2 * 2**form.bits

    assert (np.abs(unpack(matrix) - weights) <= allowed * steps + 1e-6).all()
    assert np.abs(unpack(matrix) - weights).mean() < 0.3 * steps[:, 1:].mean()


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_of_their_own_round_lopsided_weights_better(bits: int) -> None:
    weights = np.random.default_rng(0).uniform(0.0, 1.0, (64, 8)).astype(np.float32)
    errors = [
        np.square(unpack(quantize_nearest(weights, BlockFormat(bits, 32, which))) - weights).sum()
        for which in (True, False)
    ]

    assert errors[1] < errors[0] / 2


def test_bytes_are_what_the_arrays_take() -> None:
    for form in FORMATS:
        matrix = quantize_nearest(random_weights(128, 24), form)
        arrays = [matrix.codes, matrix.scales] + ([] if matrix.zeros is None else [matrix.zeros])
        if matrix.scales.shape[1] % 2 == 0:  # an odd count of 4-bit zeros is padded
            assert form.byte_count(128, 24) == sum(array.nbytes for array in arrays)


@pytest.mark.parametrize("block_size", [32, 128])
def test_activations_are_rounded_as_the_kernel_rounds_them(block_size: int) -> None:
    """accuracy_level 4 on weights that 8 bits hold exactly: what is left is the rounding of the input."""
    generator = np.random.default_rng(1)
    inputs = (generator.normal(size=(3, 200)) * generator.lognormal(size=200)).astype(np.float32)
    matrix = quantize_nearest(random_weights(200, 40), BlockFormat(8, block_size))
    found = multiply(inputs, matrix, accuracy_level=4)
    expected = round_activations(inputs, block_size) @ unpack(matrix)
    exact = inputs @ unpack(matrix)

    assert np.abs(found - expected).max() < 0.2 * np.abs(found - exact).max()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8:128", BlockFormat(8, 128)),
        ("4:32", BlockFormat(4, 32, symmetric=False)),
    ],
)
def test_a_format_is_parsed(text: str, expected: BlockFormat) -> None:
    assert BlockFormat.parse(text) == expected
    assert BlockFormat.parse(text, symmetric=True).symmetric


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8", "'8' is no block format: expected BITS:BLOCK"),
        ("8:", "no block format"),
        ("8x32", "no block format"),
        ("-8:32", "no block format"),
        ("3:32", "3 bits: expected 4 or 8"),
        ("8:100", "block size 100: expected one of 16, 32"),
    ],
)
def test_what_is_no_format_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        BlockFormat.parse(text)
