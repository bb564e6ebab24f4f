"""Where the words of a text begin, by rules that hold for every character at once.

A word's beginning depends on the character, its neighbours, and the run of white space that it lies in; never on how
the words before were cut. That is what makes these patterns possible without a step per character.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import Array, Arrays
from .character_classes import CharacterClasses
from .patterns import Pattern


@dataclass(frozen=True)
class Characters:
    """The characters of a text, with one more at the end that is none."""

    classes: Array  # [characters], int32
    apart: Array  # [characters]: a new text begins, which the pattern sees nothing before
    table: CharacterClasses

    def are(self, question: str) -> Array:
        """Whether each is of a kind."""
        answers = self.table.answers[question]
        return self.classes.arrays.table(answers)[self.classes]


def word_borders(characters: Characters, pattern: Pattern) -> Array:
    """Which characters begin a word, [characters]."""
    if pattern.digits_alone:
        digits = characters.are("digit")
        apart = characters.apart | digits | digits.previous(False)
        characters = Characters(characters.classes, apart, characters.table)
    return _Rules(characters, pattern).borders()


class _Rules:
    """The rules for one text. `x_before` says of each character that the one before it, of the same text, is an x."""

    def __init__(self, characters: Characters, pattern: Pattern):
        self._characters, self._pattern = characters, pattern
        self._arrays = characters.classes.arrays
        self._apart = characters.apart
        self._joined = ~characters.apart
        self._letter, self._number = characters.are("letter"), characters.are("number")
        self._space = characters.are("space")
        self._other = ~(self._letter | self._number | self._space)
        self._letter_before, self._number_before = self._before(self._letter), self._before(self._number)
        self._space_before, self._other_before = self._before(self._space), self._before(self._other)
        self._blank_before = self._before(characters.are("blank"))

    def borders(self) -> Array:
        """Which characters begin a word."""
        others = self._other & ~(self._other_before | self._blank_before)
        end, inside = self._contractions(others)
        letters = self._letter & ((~self._letter_before & ~self._taken_by_letters(others)) | end) & ~inside
        return self._apart | others | letters | self._numbers() | self._spaces()

    def _before(self, mask: Array) -> Array:
        return mask.previous(False) & self._joined

    def _behind(self, mask: Array) -> Array:
        """Whether the character behind each, of the same text, is in a mask."""
        return (mask & self._joined).next(False)

    def _contractions(self, beginning: Array) -> tuple[Array, Array]:
        """The characters behind a contraction, and those right behind its apostrophe.

        Args:
            beginning: characters that begin a word and are neither letters, numbers nor white space.
        """
        has = self._characters.are
        apostrophe = has("apostrophe") & beginning
        short = self._before(apostrophe) & has("s, t, m, d")
        first = self._before(apostrophe)
        long = (first & has("r, v") & self._behind(has("e"))) | (first & has("l") & self._behind(has("l")))
        return self._before(short) | self._before(self._before(long)), short | long

    def _taken_by_letters(self, others: Array) -> Array:
        """Letters whose word begins with the character before them."""
        if not self._pattern.any_before_letters:
            return self._blank_before
        unbroken = self._space & ~self._characters.are("break")
        return self._before(unbroken | others)

    def _numbers(self) -> Array:
        pattern = self._pattern
        first = self._number & ~self._number_before
        if pattern.number_length:
            place = self._arrays.positions(self._number) - _at_run(self._arrays, first)
            return self._number & (place % pattern.number_length == 0)
        return first & ~self._blank_before if pattern.blank_before_numbers else first

    def _spaces(self) -> Array:
        """White space: its first character begins a word, and its last one where it belongs to the next word."""
        last = self._behind(~self._space)
        if not self._pattern.breaks_by_themselves:
            return self._space & (~self._space_before | last)
        line_break = self._characters.are("break")
        taken = self._breaks_behind_others(line_break)
        space, line_break = self._space & ~taken, line_break & ~taken
        first = space & ~self._before(space)
        behind_breaks = self._behind_last_break(first, line_break)
        # Up to the last line break all is one word; only behind it the last character may be the next word's.
        final = space & ~line_break & last
        return first | (space & behind_breaks) | final

    def _breaks_behind_others(self, line_break: Array) -> Array:
        """Line breaks that directly follow other characters: they are of their word."""
        first = line_break & ~self._before(line_break)
        start = _at_run(self._arrays, first)
        return line_break & self._other_before[start]

    def _behind_last_break(self, first: Array, line_break: Array) -> Array:
        """The character behind the last line break of each run of white space."""
        places = self._arrays.positions(first)
        runs = first.cumsum()
        breaks = self._arrays.where(line_break, places, -1)
        last = self._arrays.filled(runs, -1, np.int32).put(runs, breaks, "max")
        return self._before(line_break & (places == last[runs]))


def _at_run(arrays: Arrays, first: Array) -> Array:
    """For each place where the latest run began, given which places begin one; for places before any: anything."""
    starts = arrays.join([np.zeros(1, np.int32), arrays.positions(first)[first]])
    return starts[first.cumsum()]
