"""A graph of one matrix product, written as ONNX's protobuf by hand: the core install has no onnx to write it with.

Field numbers are those of onnx.proto3 (ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto, ValueInfoProto).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.protobuf import field

_TYPES = {"float32": 1, "uint8": 2}  # TensorProto.DataType
_IR_VERSION, _ONNX_OPSET, _CONTRIB_OPSET = 10, 21, 1
_INTEGER_ATTRIBUTE = 2  # AttributeProto.AttributeType.INT


def float_product(weights: NDArray[np.float32]) -> bytes:
    """A model `y = x @ weights`.

    Args:
        weights: [inputs, outputs].
    """
    inputs, outputs = weights.shape
    node = _node("MatMul", ["x", "weights"])
    return _model(node, {"weights": weights}, inputs, outputs)


def blockwise_product(
    quants: NDArray[np.uint8], scales: NDArray[np.float32], *, bits: int, block_size: int, accuracy_level: int
) -> bytes:
    """A model of MatMulNBits, ONNX Runtime's product with weights in blocks and zero points in the middle.

    Args:
        quants: [outputs, blocks, bytes of a block].
        scales: [outputs, blocks].
        bits: 4 or 8.
        block_size: weights of a block.
        accuracy_level: 4 to compute in int8.
    """
    outputs, blocks = scales.shape
    numbers = {"K": blocks * block_size, "N": outputs, "bits": bits, "block_size": block_size}
    node = _node(
        "MatMulNBits", ["x", "quants", "scales"], domain="com.microsoft", **numbers, accuracy_level=accuracy_level
    )
    return _model(node, {"quants": quants, "scales": scales}, blocks * block_size, outputs)


def _model(node: bytes, constants: dict[str, NDArray[Any]], inputs: int, outputs: int) -> bytes:
    graph = field(1, node) + field(2, "product")
    graph += b"".join(field(5, _tensor(name, value)) for name, value in constants.items())
    graph += field(11, _value("x", inputs)) + field(12, _value("y", outputs))
    opsets = field(2, _ONNX_OPSET), field(1, "com.microsoft") + field(2, _CONTRIB_OPSET)
    return field(1, _IR_VERSION) + field(7, graph) + b"".join(field(8, opset) for opset in opsets)


def _node(operator: str, inputs: list[str], domain: str = "", **attributes: int) -> bytes:
    node = b"".join(field(1, name) for name in inputs) + field(2, "y") + field(4, operator)
    for name, value in attributes.items():
        node += field(5, field(1, name) + field(3, value) + field(20, _INTEGER_ATTRIBUTE))
    return node + (field(7, domain) if domain else b"")


def _tensor(name: str, value: NDArray[Any]) -> bytes:
    dimensions = b"".join(field(1, size) for size in value.shape)
    return dimensions + field(2, _TYPES[value.dtype.name]) + field(8, name) + field(9, value.tobytes())


def _value(name: str, width: int) -> bytes:
    """Rows of float32: [rows, width]."""
    shape = field(1, field(2, "rows")) + field(1, field(1, width))
    tensor_type = field(1, _TYPES["float32"]) + field(2, shape)
    return field(1, name) + field(2, field(1, tensor_type))
