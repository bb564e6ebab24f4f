"""Finds a text's special tokens: leftmost first, the longest where several begin, as the tokenizers library does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .arrays import Array, Arrays
from .byte_level import SpecialToken
from .pair_table import PairTable

_NONE = -1


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
    trie = _Trie(tokens)
    beginnings = np.zeros(256, np.bool_)
    beginnings[[token.content[0] for token in tokens]] = True
    candidates = arrays.positions(codes)[arrays.table(beginnings)[codes]]
    ends, ids = _longest(codes, candidates, trie)
    found = ids >= 0
    starts, ends, ids = candidates[found], ends[found], ids[found]
    kept = _leftmost(codes, starts, ends)
    starts, ends, ids = starts[kept], ends[kept], ids[kept]
    zeros = arrays.filled(codes, 0, np.int32)
    open_ = zeros.put(starts, 1, "add").put(ends, -1, "add").cumsum()
    begins = arrays.filled(codes, _NONE, np.int32).put(starts, ids)
    return Marks(begins, (open_ > 0) & (begins < 0), zeros.put(ends, 1) > 0)


class _Trie:
    """The tokens' bytes as a tree: state 0 is its root; a token's last byte leads to a state that knows its id."""

    def __init__(self, tokens: Sequence[SpecialToken]):
        steps: dict[tuple[int, int], int] = {}
        ends: dict[int, int] = {}
        for token in tokens:
            state = 0
            for byte in token.content:
                state = steps.setdefault((state, byte), len(steps) + 1)
            ends[state] = token.id
        states = len(steps) + 1
        self.steps = PairTable.of(steps, states, 256)
        self.ids = np.array([ends.get(state, _NONE) for state in range(states)], np.int32)


def _longest(codes: Array, starts: Array, trie: _Trie) -> tuple[Array, Array]:
    """Where the longest token that begins at each start ends, and its id; -1 where none does."""
    nothing = codes.arrays.filled(starts, _NONE, np.int32)

    def step(body: Arrays, held: list[Array]) -> tuple[Array, list[Array]]:
        places, states, ends, ids = held
        # A start that leads nowhere stays in the root, whose steps it must not take again: place 0xFF, the last.
        states = trie.steps.look_up(body, states, body.seen(codes)[places], 0)
        places = body.where(states > 0, places + 1, -1)
        here = body.table(trie.ids)[states]
        ended = here >= 0
        goes_on = (states > 0).any()
        return goes_on, [places, states, body.where(ended, places, ends), body.where(ended, here, ids)]

    root = codes.arrays.filled(starts, 0, np.int32)
    begins = (starts >= 0).any()
    _, _, ends, ids = codes.arrays.loop(begins, [starts, root, nothing, nothing], step)
    return ends, ids


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
