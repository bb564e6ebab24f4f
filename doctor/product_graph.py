"""A graph of one matrix product, written as ONNX's protobuf by hand: the core install has no onnx to write it with.

Field numbers are those of onnx.proto3 (ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto, ValueInfoProto)
and the wire format is https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    graph = _bytes(1, node) + _text(2, "product")
    graph += b"".join(_bytes(5, _tensor(name, value)) for name, value in constants.items())
    graph += _bytes(11, _value("x", inputs)) + _bytes(12, _value("y", outputs))
    opsets = _integer(2, _ONNX_OPSET), _text(1, "com.microsoft") + _integer(2, _CONTRIB_OPSET)
    return _integer(1, _IR_VERSION) + _bytes(7, graph) + b"".join(_bytes(8, opset) for opset in opsets)


def _node(operator: str, inputs: list[str], domain: str = "", **attributes: int) -> bytes:
    node = b"".join(_text(1, name) for name in inputs) + _text(2, "y") + _text(4, operator)
    for name, value in attributes.items():
        node += _bytes(5, _text(1, name) + _integer(3, value) + _integer(20, _INTEGER_ATTRIBUTE))
    return node + (_text(7, domain) if domain else b"")


def _tensor(name: str, value: NDArray[Any]) -> bytes:
    dimensions = b"".join(_integer(1, size) for size in value.shape)
    return dimensions + _integer(2, _TYPES[value.dtype.name]) + _text(8, name) + _bytes(9, value.tobytes())


def _value(name: str, width: int) -> bytes:
    """Rows of float32: [rows, width]."""
    shape = _bytes(1, _text(2, "rows")) + _bytes(1, _integer(1, width))
    tensor_type = _integer(1, _TYPES["float32"]) + _bytes(2, shape)
    return _text(1, name) + _bytes(2, _bytes(1, tensor_type))


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode("utf-8"))


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that more follow."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
