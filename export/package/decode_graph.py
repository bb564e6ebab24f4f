"""decode: token ids to the UTF-8 bytes that the tokenizers library gives, as nodes of a graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import Array
from .byte_level import ByteLevelTokenizer

_END = 0xFF  # a byte that no UTF-8 has
_REPLACEMENT = np.array([0xEF, 0xBF, 0xBD], np.int32)  # U+FFFD in UTF-8


@dataclass(frozen=True)
class Decoder:
    """The bytes of every token, one after the other."""

    letters: NDArray[np.uint8]
    starts: NDArray[np.int32]  # by id, and one more for ids that no token has
    lengths: NDArray[np.int32]  # 0 for what is skipped

    @staticmethod
    def of(tokenizer: ByteLevelTokenizer) -> Decoder:
        """Make the tables: special tokens are skipped."""
        skipped = {token.id for token in tokenizer.special_tokens if token.skipped}
        tokens = [b"" if number in skipped else token for number, token in enumerate(tokenizer.token_bytes)]
        lengths = np.array([len(token) for token in tokens] + [0], np.int32)
        starts = np.cumsum(lengths, dtype=np.int32) - lengths
        return Decoder(np.frombuffer(b"".join(tokens) + b"\0", np.uint8), starts, lengths)

    def decode(self, ids: Array) -> Array:
        """The text uint8 [k] of ids int64 [m].

        Bytes that are no character become U+FFFD, as in the library; a character that the last ids leave unfinished
        is left out.
        """
        arrays = ids.arrays
        ids = arrays.where(ids < 0, len(self.lengths) - 1, ids.at_most(len(self.lengths) - 1))
        token, place = arrays.repeated(arrays.table(self.lengths)[ids])
        codes = arrays.table(self.letters)[arrays.table(self.starts)[ids][token] + place]
        return _sound(codes.cast(np.int32)).cast(np.uint8)


def _sound(codes: Array) -> Array:
    """Bytes int32 [n] as sound UTF-8: each longest beginning of a character that is not ended becomes U+FFFD."""
    arrays = codes.arrays
    codes = arrays.join([codes, np.array([_END], np.int32)])
    more = arrays.table(_CONTINUATIONS)[codes]
    second = codes.next(_END)
    third = second.next(_END)
    fourth = third.next(_END)
    one = (second >= arrays.table(_LOWEST)[codes]) & (second <= arrays.table(_HIGHEST)[codes]) & (more >= 1)
    two = one & (more >= 2) & _continues(third)
    three = two & (more >= 3) & _continues(fourth)
    taken = one.cast(np.int32) + two.cast(np.int32) + three.cast(np.int32)
    whole = taken == more
    part = _reached(one, two, three)
    fine = (whole & ~part) | _reached(one & whole, two & whole, three & whole)
    places = arrays.positions(codes)
    end = places == (_size(codes) - 1)
    unfinished = (more > taken) & (places + taken + 2 == _size(codes))
    lengths = arrays.where(part | unfinished | end, 0, arrays.filled(codes, len(_REPLACEMENT), np.int32))
    lengths = arrays.where(fine, 1, lengths)
    place, time = arrays.repeated(lengths)
    return arrays.where(fine[place], codes[place], arrays.table(_REPLACEMENT)[time])


def _continues(codes: Array) -> Array:
    return (codes >= 0x80) & (codes < 0xC0)


def _reached(one: Array, two: Array, three: Array) -> Array:
    """The bytes that a character's first byte one, two or three places before has taken."""
    first = one.previous(False)
    second = two.previous(False).previous(False)
    return first | second | three.previous(False).previous(False).previous(False)


def _size(codes: Array) -> Array:
    return codes.arrays.node("Size", [codes], np.int64).cast(np.int32)


def _continuations() -> NDArray[np.int32]:
    """How many bytes a character's first byte wants behind it; 0 for ASCII, -1 for what begins no character."""
    wanted = np.full(256, -1, np.int32)
    wanted[:0x80], wanted[0xC2:0xE0], wanted[0xE0:0xF0], wanted[0xF0:0xF5] = 0, 1, 2, 3
    return wanted


_CONTINUATIONS = _continuations()
# What may come second, by the first byte: no character has a longer form than it needs, none is a surrogate, none is
# beyond U+10FFFF (Unicode, table 3-7).
_LOWEST = np.full(256, 0x80, np.int32)
_LOWEST[[0xE0, 0xF0]] = 0xA0, 0x90
_HIGHEST = np.full(256, 0xBF, np.int32)
_HIGHEST[[0xED, 0xF4]] = 0x9F, 0x8F
