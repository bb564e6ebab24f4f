"""encode: UTF-8 bytes to the ids that the tokenizers library gives, as nodes of a graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import Array
from .borders import Characters, word_borders
from .byte_level import ByteLevelTokenizer
from .character_classes import BLOCK, CODE_POINTS, CharacterClasses, character_classes
from .merge_nodes import MergeTables, merge_tables, merge_words
from .special_nodes import Marks, mark_special_tokens
from .trie import NONE, Trie

_END = 0xFF  # a byte that no UTF-8 has
_REPLACEMENT = 0xFFFD  # the character that stands for bytes that are none
_BLANK = 0x20


@dataclass(frozen=True)
class Encoder:
    """A tokenizer's way from bytes to ids, and the tables it takes."""

    tokenizer: ByteLevelTokenizer
    classes: CharacterClasses
    merges: MergeTables

    @staticmethod
    def of(tokenizer: ByteLevelTokenizer) -> Encoder:
        """Make the tables."""
        return Encoder(tokenizer, character_classes(tokenizer.pattern), merge_tables(tokenizer))

    def encode(self, prompt: Array) -> Array:
        """The ids int64 [m] of a text in UTF-8, uint8 [n].

        Bytes that are no UTF-8 keep their own tokens; where words begin among them is not specified.
        """
        arrays = prompt.arrays
        tokenizer = self.tokenizer
        codes = arrays.join([prompt.cast(np.int32), np.array([_END], np.int32)])
        marks = self._marks(codes)
        if tokenizer.pattern.begins_with_blank:
            codes, marks = _with_blanks(codes, marks)
        words = self._words(codes, marks)
        ids = arrays.where(marks.ids >= 0, marks.ids, arrays.table(np.array(tokenizer.byte_ids, np.int32))[codes])
        # What has no token is dropped; the end stays, as the one more that merging wants.
        kept = ((ids >= 0) & ~marks.rest).put(_last(codes), True)
        ids, words = merge_words(codes[kept], ids[kept], words[kept], self.merges)
        if tokenizer.whole_words:
            ids = _take_whole_words(ids, words, Trie.of(tokenizer.whole_words, len(tokenizer.token_bytes)))
        merged = ids[:-1].cast(np.int64)
        around = [np.array(each, np.int64) for each in (tokenizer.prefix_ids, tokenizer.suffix_ids)]
        return arrays.join([around[0], merged, around[1]])

    def _marks(self, codes: Array) -> Marks:
        """The special tokens among the bytes."""
        if self.tokenizer.special_tokens:
            return mark_special_tokens(codes, self.tokenizer.special_tokens)
        nowhere = codes.arrays.filled(codes, False, np.bool_)
        return Marks(codes.arrays.filled(codes, -1, np.int32), nowhere, nowhere)

    def _words(self, codes: Array, marks: Marks) -> Array:
        """The number of each byte's word, int32 [bytes]."""
        arrays = codes.arrays
        first = ((codes < 0x80) | (codes >= 0xC0)).put(arrays.table(np.zeros(1, np.int32)), True)
        places = arrays.positions(codes)[first]
        apart = ((marks.ids >= 0) | marks.behind).put(_last(codes), True)[places]
        classes = self._class(_code_points(codes, places))
        borders = word_borders(Characters(classes, apart, self.classes), self.tokenizer.pattern)
        borders = borders & ~marks.rest[places]
        return borders.cumsum()[first.cumsum() - 1]

    def _class(self, code_points: Array) -> Array:
        table = code_points.arrays.table
        block = table(self.classes.block_places)[code_points // BLOCK]
        return table(self.classes.classes)[block + code_points % BLOCK]


def _take_whole_words(ids: Array, words: Array, known: Trie) -> Array:
    """Put the token of a whole word in place of what merging made of it, both [n] with one more at the end."""
    first = words != words.previous(-1)
    starts = ids.arrays.positions(ids)[first][:-1]
    _, found = known.longest(ids, starts, first)
    found = ids.arrays.join([found, np.array([NONE], np.int32)])
    of_word = found[first.cumsum() - 1]
    return ids.arrays.where(first & (of_word >= 0), of_word, ids)[first | (of_word < 0)]


def _last(codes: Array) -> Array:
    """The place of the last byte, [1]."""
    return codes.arrays.node("Shape", [codes], np.int64).cast(np.int32) - 1


def _code_points(codes: Array, places: Array) -> Array:
    """The characters that begin at some places, int32; U+FFFD for those that are none."""
    arrays = codes.arrays
    last = _last(codes)
    length = places.next(0) - places
    lead = codes[places]
    wanted, point = arrays.table(_LENGTHS)[lead], arrays.table(_LEAD_BITS)[lead]
    for count in range(1, 4):
        code = codes[(places + count).at_most(last)]
        point = arrays.where(wanted > count, point * 64 + code % 64, point)
    return arrays.where((wanted == length) & (point < CODE_POINTS), point, _REPLACEMENT)


def _with_blanks(codes: Array, marks: Marks) -> tuple[Array, Marks]:
    """Put a blank before every text, between special tokens, that begins with something else."""
    arrays = codes.arrays
    begins = marks.behind.put(arrays.table(np.zeros(1, np.int32)), True) & (marks.ids < 0)
    put = (begins & (codes != _BLANK)).put(_last(codes), False)
    # Where each byte goes; what is marked as behind a token is from now on the blank.
    places = arrays.positions(codes) + put.cumsum()
    longer = arrays.join([codes, codes[put]])
    ids = arrays.filled(longer, -1, np.int32).put(places, marks.ids)
    rest = arrays.filled(longer, False, np.bool_).put(places, marks.rest)
    behind = arrays.filled(longer, False, np.bool_).put(places - put.cast(np.int32), marks.behind)
    return arrays.filled(longer, _BLANK, np.int32).put(places, codes), Marks(ids, rest, behind)


def _by_lead(one: int, two: int, three: int, four: int) -> NDArray[np.int32]:
    """A number for each first byte of a character of one to four bytes; 0 for bytes that begin none."""
    return np.repeat(np.array([one, 0, two, three, four, 0], np.int32), [128, 64, 32, 16, 8, 8])


_LENGTHS = _by_lead(1, 2, 3, 4)
_LEAD_BITS = np.arange(256, dtype=np.int32) & _by_lead(0x7F, 0x1F, 0x0F, 0x07)
