"""Merges the tokens of all words at once.

Byte-pair encoding merges, in each word, the pair of neighbours that was learned first, until no pair was learned. Words
know nothing of one another, so one turn merges the first-learned pair of every word, all its occurrences from left to
right; there are as many turns as the slowest word takes. Some lists of merges (those made of a list of tokens, such as
Llama 3's) have pairs that come before one of their own tokens: merging one occurrence may then make a pair that goes
before the next occurrence, and where that may be, a turn merges the leftmost one only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, Arrays
from .byte_level import ByteLevelTokenizer
from .pair_table import PairTable

_NEVER = np.iinfo(np.int32).max  # the rank of a pair that is not merged


@dataclass(frozen=True)
class MergeTables:
    """The rank of every pair, and what it becomes."""

    ranks: PairTable
    merged: NDArray[np.int32]  # by rank
    ordered: NDArray[np.bool_]  # by rank: no pair with what it makes comes before it


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
    return MergeTables(
        PairTable.of(ranks, size, size), np.array(results or [0], np.int32), np.array(ordered or [True], np.bool_)
    )


def merge_words(ids: Array, words: Array, tables: MergeTables) -> tuple[Array, Array]:
    """The ids and words [m] after all merges.

    Args:
        ids: int32 [n], with one more at the end that has a word of its own.
        words: int32 [n], the number of each one's word, ascending.
        tables: of the tokenizer.
    """

    def ranks_of(arrays: Arrays, ids: Array, words: Array) -> Array:
        """The rank of each and the next one, [n]."""
        inside = words == words.next(-1)
        return arrays.where(inside, tables.ranks.look_up(arrays, ids, ids.next(0), _NEVER), _NEVER)

    def turn(body: Arrays, held: list[Array]) -> tuple[Array, list[Array]]:
        ids, words, ranks = held
        first = body.filled(words, _NEVER, np.int32).put(words, ranks, "min")
        best = (ranks == first[words]) & (ranks < _NEVER)
        merging = _every_other(body, best if tables.ordered.all() else _allowed(body, best, ranks, words, tables))
        kept = ~merging.previous(False)
        merged = body.table(tables.merged)[body.where(merging, ranks, 0)]
        ids = body.where(merging, merged, ids)[kept]
        words = words[kept]
        ranks = ranks_of(body, ids, words)
        return (ranks < _NEVER).any(), [ids, words, ranks]

    words = (words != words.previous(-1)).cumsum() - 1  # none left out, so that there are no more than ids
    ranks = ranks_of(ids.arrays, ids, words)
    ids, words, _ = ids.arrays.loop((ranks < _NEVER).any(), [ids, words, ranks], turn)
    return ids, words


def _allowed(arrays: Arrays, best: Array, ranks: Array, words: Array, tables: MergeTables) -> Array:
    """Of the first-learned pairs those that may be merged in one turn: all, or in some words the leftmost one."""
    places = arrays.positions(best)
    never = arrays.filled(best, _NEVER, np.int32)
    leftmost = never.put(words, arrays.where(best, places, _NEVER), "min")
    ordered = arrays.table(tables.ordered)[arrays.where(best, ranks, 0)]
    return best & (ordered | (places == leftmost[words]))


def _every_other(arrays: Arrays, mask: Array) -> Array:
    """Of each run of what is set the first, third, fifth …: a pair's occurrences that do not overlap."""
    start = mask & ~mask.previous(False)
    places = arrays.positions(mask)
    starts = arrays.join([np.zeros(1, np.int32), places[start]])
    return mask & ((places - starts[start.cumsum()]) % 2 == 0)
