"""A graph of `Identity` nodes side by side, which copies on a device. The numbers of fields are those of onnx.proto."""

from __future__ import annotations

from .protobuf import field

_IR_VERSION, _OPSET = 8, 16  # the first opset whose Identity takes bfloat16 and all the other types of caches is 13


def identity_graph(count: int, element_type: int, rank: int) -> bytes:
    """A model that copies its inputs `from_0`, `from_1`, … to its outputs `to_0`, `to_1`, …, of any sizes.

    Args:
        count: how many.
        element_type: by ONNX's number (onnx.TensorProto.DataType).
        rank: dimensions of each.
    """
    graph = b"".join(field(1, _node(number)) for number in range(count)) + field(2, "copies")
    graph += b"".join(field(11, _value(f"from_{number}", element_type, rank)) for number in range(count))
    graph += b"".join(field(12, _value(f"to_{number}", element_type, rank)) for number in range(count))
    return field(1, _IR_VERSION) + field(7, graph) + field(8, field(2, _OPSET))


def _node(number: int) -> bytes:
    return field(1, f"from_{number}") + field(2, f"to_{number}") + field(4, "Identity")


def _value(name: str, element_type: int, rank: int) -> bytes:
    """A ValueInfoProto: a name, and the type of a tensor whose dimensions are open."""
    shape = field(1, b"") * rank
    return field(1, name) + field(2, field(1, field(1, element_type) + field(2, shape)))
