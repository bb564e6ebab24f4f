"""A graph of `Identity` nodes side by side, written byte by byte: the runtime does without the onnx package.

The numbers of fields are those of onnx.proto; the encoding is Protocol Buffers' own: every field is its number and
kind as one number, then a number, or a length and so many bytes.
"""

from __future__ import annotations

_IR_VERSION, _OPSET = 8, 16  # the first opset whose Identity takes bfloat16 and all the other types of caches is 13
_NUMBER, _BYTES = 0, 2  # kinds of fields


def identity_graph(count: int, element_type: int, rank: int) -> bytes:
    """A model that copies its inputs `from_0`, `from_1`, … to its outputs `to_0`, `to_1`, …, of any sizes.

    Args:
        count: how many.
        element_type: by ONNX's number (onnx.TensorProto.DataType).
        rank: dimensions of each.
    """
    graph = b"".join(_field(1, _node(number)) for number in range(count)) + _field(2, b"copies")
    graph += b"".join(_field(11, _value(f"from_{number}", element_type, rank)) for number in range(count))
    graph += b"".join(_field(12, _value(f"to_{number}", element_type, rank)) for number in range(count))
    return _field(1, _IR_VERSION) + _field(7, graph) + _field(8, _field(2, _OPSET))


def _node(number: int) -> bytes:
    return _field(1, f"from_{number}".encode()) + _field(2, f"to_{number}".encode()) + _field(4, b"Identity")


def _value(name: str, element_type: int, rank: int) -> bytes:
    """A ValueInfoProto: a name, and the type of a tensor whose dimensions are open."""
    shape = _field(1, b"") * rank
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, element_type) + _field(2, shape)))


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3 | _NUMBER) + _varint(value)
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits to a byte, the lowest first; all bytes but the last have the eighth set."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
