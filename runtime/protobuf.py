"""Protocol Buffers written by hand: the runtime makes small graphs of its own, and does without the onnx package.

A message is its fields one after the other; the numbers of an ONNX message's fields are those of onnx.proto. The
encoding is that of https://protobuf.dev/programming-guides/encoding: each field is its number and kind as one number,
then a number, or a length and so many bytes.
"""

from __future__ import annotations

_NUMBER, _BYTES = 0, 2  # kinds of fields


def field(number: int, value: int | str | bytes) -> bytes:
    """One field of a message: a whole number from 0 on, a text, or bytes, which another message is too.

    >>> field(1, 150).hex(), field(2, "testing").hex()
    ('089601', '120774657374696e67')
    """
    if isinstance(value, int):
        return _varint(number << 3 | _NUMBER) + _varint(value)
    content = value.encode("utf-8") if isinstance(value, str) else value
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits to a byte, the lowest first; all bytes but the last have the eighth set."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
