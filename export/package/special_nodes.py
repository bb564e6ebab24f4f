"""Finds a text's special tokens: leftmost first, the longest where several begin, as the tokenizers library does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .arrays import Array, Arrays
from .byte_level import SpecialToken
from .trie import NONE, Trie


@dataclass(frozen=True)
class Marks:
    """What of a text's bytes is special tokens, all [bytes]."""

    ids: Array  # int32: of the token that begins there, -1 elsewhere
    rest: Array  # the bytes of a token but its first
    behind: Array  # the byte behind a token


def mark_special_tokens(codes: Array, tokens: Sequence[SpecialToken]) -> Marks:
    """Find them.

    Args:
        codes: int32 [bytes], with 0xFF, which no text has, at the end.
        tokens: at least one.
    """
    arrays = codes.arrays
    trie = Trie.of(((token.content, token.id) for token in tokens), 256)
    beginnings = np.zeros(256, np.bool_)
    beginnings[[token.content[0] for token in tokens]] = True
    candidates = arrays.positions(codes)[arrays.table(beginnings)[codes]]
    ends, ids = trie.longest(codes, candidates)
    found = ids >= 0
    starts, ends, ids = candidates[found], ends[found], ids[found]
    kept = _leftmost(codes, starts, ends)
    starts, ends, ids = starts[kept], ends[kept], ids[kept]
    zeros = arrays.filled(codes, 0, np.int32)
    open_ = zeros.put(starts, 1, "add").put(ends, -1, "add").cumsum()
    begins = arrays.filled(codes, NONE, np.int32).put(starts, ids)
    return Marks(begins, (open_ > 0) & (begins < 0), zeros.put(ends, 1) > 0)


def _leftmost(codes: Array, starts: Array, ends: Array) -> Array:
    """Which of the occurrences, in order of their starts, are left when each one takes its bytes from those behind."""
    arrays = codes.arrays
    count = arrays.filled(codes, 0, np.int32).put(starts, 1)
    following = (count.cumsum() - count)[ends]  # the first occurrence that begins at its end or later
    # One more occurrence at the end, which follows itself, so that there is something to read when there is none.
    number = arrays.node("Shape", [starts], np.int64).cast(np.int32)
    following = arrays.join([following, number])
    kept = arrays.filled(following, 0, np.int32)

    def step(body: Arrays, held: list[Array]) -> tuple[Array, list[Array]]:
        place, marks = held
        behind = body.seen(following)[place]
        return (behind < body.seen(number)).any(), [behind, marks.put(place, 1)]

    first = np.zeros(1, np.int32)
    _, kept = arrays.loop((number > 0).any(), [arrays.table(first), kept], step)
    return (kept > 0)[:-1]
