"""Merges the tokens of all words at once.

Byte-pair encoding merges, in each word, the pair of neighbours that was learned first, until no pair was learned. Words
know nothing of one another, so one turn merges the first-learned pair of every word, all its occurrences from left to
right; there are as many turns as the slowest word takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import UnsupportedTokenizerError
from .arrays import Array, Arrays
from .byte_level import ByteLevelTokenizer
from .pair_table import PairTable

_NEVER = np.iinfo(np.int32).max  # the rank of a pair that is not merged


@dataclass(frozen=True)
class MergeTables:
    """The rank of every pair, and what it becomes."""

    ranks: PairTable
    merged: NDArray[np.int32]  # by rank


def merge_tables(tokenizer: ByteLevelTokenizer) -> MergeTables:
    """The tables of a tokenizer.

    Raises:
        UnsupportedTokenizerError: a pair comes before the merge that makes one of its tokens.
    """
    made: dict[int, int] = {}  # by token: the last rank that makes it
    for rank, (_, _, merged) in enumerate(tokenizer.merges):
        made[merged] = rank
    for rank, (left, right, _) in enumerate(tokenizer.merges):
        if max(made.get(left, -1), made.get(right, -1)) >= rank:
            # Then merging one occurrence could make a pair that goes before the next occurrence.
            raise UnsupportedTokenizerError(
                f"the tokenizer merges {tokenizer.token_bytes[left]!r} and {tokenizer.token_bytes[right]!r} before it "
                "makes both: expected merges in the order they were learned; tokenize with the tokenizers library and "
                "use generate.onnx"
            )
    size = len(tokenizer.token_bytes)
    ranks = {(left, right): rank for rank, (left, right, _) in enumerate(tokenizer.merges)}
    results = np.array([merged for _, _, merged in tokenizer.merges] or [0], np.int32)
    return MergeTables(PairTable.of(ranks, size, size), results)


def merge_words(ids: Array, words: Array, tables: MergeTables) -> Array:
    """The ids [m] after all merges.

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
        merging = _every_other(body, (ranks == first[words]) & (ranks < _NEVER))
        kept = ~merging.previous(False)
        merged = body.table(tables.merged)[body.where(merging, ranks, 0)]
        ids = body.where(merging, merged, ids)[kept]
        words = words[kept]
        ranks = ranks_of(body, ids, words)
        return (ranks < _NEVER).any(), [ids, words, ranks]

    words = (words != words.previous(-1)).cumsum() - 1  # none left out, so that there are no more than ids
    ranks = ranks_of(ids.arrays, ids, words)
    return ids.arrays.loop((ranks < _NEVER).any(), [ids, words, ranks], turn)[0]


def _every_other(arrays: Arrays, mask: Array) -> Array:
    """Of each run of what is set the first, third, fifth …: a pair's occurrences that do not overlap."""
    start = mask & ~mask.previous(False)
    places = arrays.positions(mask)
    starts = arrays.join([np.zeros(1, np.int32), places[start]])
    return mask & ((places - starts[start.cumsum()]) % 2 == 0)
