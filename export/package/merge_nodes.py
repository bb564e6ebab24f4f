"""Merges the tokens of all words at once.

Byte-pair encoding merges, in each word, the pair of neighbours that was learned first, until no pair was learned. Words
know nothing of one another, so one turn merges the first-learned pair of every word, all its occurrences from left to
right; there are as many turns as the slowest word takes. Some lists of merges (those made of a list of tokens, such as
Llama 3's) have pairs that come before one of their own tokens: merging one occurrence may then make a pair that goes
before the next occurrence, and where that may be, a turn merges the leftmost one only.

A long word (Chinese without punctuation) would take hundreds of turns. But between two bytes nothing is merged before
the first merge that puts just these two bytes together: in every turn, a border that holds up to some rank cuts words
into parts that know nothing of one another up to that rank, and each part merges its own first-learned pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, Arrays
from .byte_level import ByteLevelTokenizer
from .pair_table import PairTable

_NEVER = np.iinfo(np.int32).max  # the rank of a pair that is not merged
_LONG = 64  # bytes of a word that is merged in parts
_FIRST_RANKS = 1024  # that the first turns of long words go through; each further part of the ranks is twice as long


@dataclass(frozen=True)
class MergeTables:
    """The rank of every pair, and what it becomes."""

    ranks: PairTable
    merged: NDArray[np.int32]  # by rank
    ordered: NDArray[np.bool_]  # by rank: no pair with what it makes comes before it
    together: NDArray[np.int32]  # by one byte × 256 + the next: the first rank that puts them into one token


def merge_tables(tokenizer: ByteLevelTokenizer) -> MergeTables:
    """The tables of a tokenizer."""
    first_use: dict[int, int] = {}  # by token: the first rank of a pair with it
    for rank, (left, right, _) in enumerate(tokenizer.merges):
        first_use.setdefault(left, rank)
        first_use.setdefault(right, rank)
    size = len(tokenizer.token_bytes)
    ranks = {(left, right): rank for rank, (left, right, _) in enumerate(tokenizer.merges)}
    results = [merged for _, _, merged in tokenizer.merges]
    ordered = [first_use.get(merged, _NEVER) > rank for rank, merged in enumerate(results)]
    together = np.full(256 * 256, _NEVER, np.int32)
    for rank, (left, right, _) in reversed(list(enumerate(tokenizer.merges))):
        together[tokenizer.token_bytes[left][-1] * 256 + tokenizer.token_bytes[right][0]] = rank
    return MergeTables(
        ranks=PairTable.of(ranks, size, size),
        merged=np.array(results or [0], np.int32),
        ordered=np.array(ordered or [True], np.bool_),
        together=together,
    )


def merge_words(codes: Array, ids: Array, words: Array, tables: MergeTables) -> tuple[Array, Array]:
    """The ids and words [m] after all merges.

    Args:
        codes: int32 [n], the bytes; of what is no byte, anything up to 255.
        ids: int32 [n], their tokens, with one more at the end that has a word of its own.
        words: int32 [n], the number of each one's word, ascending. What is no byte has a word of its own.
        tables: of the tokenizer.
    """

    def ranks_of(arrays: Arrays, ids: Array, together: Array) -> Array:
        """The rank of each and the next one, [n]."""
        return arrays.where(together < _NEVER, tables.ranks.look_up(arrays, ids, ids.next(0), _NEVER), _NEVER)

    def turn(body: Arrays, held: list[Array]) -> tuple[Array, list[Array]]:
        ids, words, together, ranks, least = held
        limit = body.node("Max", [least * 2 + _FIRST_RANKS, body.seen(least_limit)], np.int32)
        parts = (together > limit).previous(False).cumsum()
        first = body.filled(parts, _NEVER, np.int32).put(parts, ranks, "min")
        best = (ranks == first[parts]) & (ranks <= limit)
        merging = _every_other(body, best if tables.ordered.all() else _allowed(body, best, ranks, parts, tables))
        kept = ~merging.previous(False)
        merged = body.table(tables.merged)[body.where(merging, ranks, 0)]
        ids = body.where(merging, merged, ids)[kept]
        together = body.where(merging, together.next(_NEVER), together)[kept]
        ranks = ranks_of(body, ids, together)
        least = _least(ranks)
        return least < _NEVER, [ids, words[kept], together, ranks, least]

    arrays = ids.arrays
    together = arrays.where(words == words.next(-1), arrays.table(tables.together)[codes * 256 + codes.next(0)], _NEVER)
    ranks = ranks_of(arrays, ids, together)
    least, least_limit = _least(ranks), arrays.where(_has_long(words), 0, arrays.table(np.array(_NEVER - 1, np.int32)))
    ids, words, *_ = arrays.loop(least < _NEVER, [ids, words, together, ranks, least], turn)
    return ids, words


def _least(ranks: Array) -> Array:
    """The smallest of ranks, a number."""
    return ranks.arrays.node("ReduceMin", [ranks], ranks.dtype, keepdims=0)


def _has_long(words: Array) -> Array:
    """Whether a word is long, a number."""
    ends = words.arrays.positions(words)[words != words.next(-1)]
    return (ends - ends.previous(-1) > _LONG).any()


def _allowed(arrays: Arrays, best: Array, ranks: Array, parts: Array, tables: MergeTables) -> Array:
    """Of the first-learned pairs those that may be merged in one turn: all, or in some parts the leftmost one."""
    places = arrays.positions(best)
    never = arrays.filled(best, _NEVER, np.int32)
    leftmost = never.put(parts, arrays.where(best, places, _NEVER), "min")
    ordered = arrays.table(tables.ordered)[arrays.where(best, ranks, 0)]
    return best & (ordered | (places == leftmost[parts]))


def _every_other(arrays: Arrays, mask: Array) -> Array:
    """Of each run of what is set the first, third, fifth …: a pair's occurrences that do not overlap."""
    start = mask & ~mask.previous(False)
    places = arrays.positions(mask)
    starts = arrays.join([np.zeros(1, np.int32), places[start]])
    return mask & ((places - starts[start.cumsum()]) % 2 == 0)
