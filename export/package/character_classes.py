"""What kind of character each code point is, asked of the tokenizers library's own regex engine.

Every code point belongs to one of a few classes, and a class says yes or no to every question asked here: a graph looks
up a character's class once, and then each answer in a table of a few elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, normalizers, pre_tokenizers

from .patterns import Pattern

CODE_POINTS = 0x110000
BLOCK = 128  # code points
_SURROGATES = slice(0xD800, 0xE000)  # are no characters


@dataclass(frozen=True)
class CharacterClasses:
    """The class of every code point, by blocks that are stored once, and the answers of every class."""

    block_places: NDArray[np.int32]  # [CODE_POINTS / BLOCK]: where a block's classes begin
    classes: NDArray[np.int32]  # [blocks × BLOCK]
    answers: dict[str, NDArray[np.bool_]]  # question: [classes]


def character_classes(pattern: Pattern) -> CharacterClasses:
    """The classes that a pattern distinguishes."""
    case = "(?i:{})" if pattern.contractions_in_capitals else "{}"
    asked = {
        "letter": _matching(pattern.letter),
        "number": _matching(r"\p{N}"),
        "space": _matching(r"\s"),
        "blank": _only(" "),
        "break": _only("\r\n"),
        "apostrophe": _only("'"),
        "s, t, m, d": _matching(case.format("[stmd]")),
        "r, v": _matching(case.format("[rv]")),
        "e": _matching(case.format("e")),
        "l": _matching(case.format("l")),
    }
    if pattern.digits_alone:
        asked["digit"] = _digits()
    return _by_blocks(asked)


def _by_blocks(asked: dict[str, NDArray[np.bool_]]) -> CharacterClasses:
    codes = np.zeros(CODE_POINTS, np.int32)
    for bit, answers in enumerate(asked.values()):
        codes |= answers.astype(np.int32) << bit
    kinds, classes = np.unique(codes, return_inverse=True)
    blocks, block_of = np.unique(classes.reshape(-1, BLOCK), axis=0, return_inverse=True)
    return CharacterClasses(
        block_places=(block_of.reshape(-1) * BLOCK).astype(np.int32),
        classes=blocks.reshape(-1).astype(np.int32),
        answers={name: (kinds >> bit & 1).astype(np.bool_) for bit, name in enumerate(asked)},
    )


@cache
def _every_character() -> str:
    return "".join(map(chr, [*range(_SURROGATES.start), *range(_SURROGATES.stop, CODE_POINTS)]))


@cache
def _matching(pattern: str) -> NDArray[np.bool_]:
    """Which code points a pattern for one character matches: those that the library replaces."""
    text = _every_character()
    replaced = normalizers.Replace(Regex(pattern), "\0").normalize_str(text)
    assert len(replaced) == len(text)
    found = np.frombuffer(replaced.encode("utf-32-le"), np.uint32) == 0
    found[0] = normalizers.Replace(Regex(pattern), "a").normalize_str("\0") == "a"
    return _with_surrogates(found)


@cache
def _digits() -> NDArray[np.bool_]:
    """Which code points the library's Digits cuts out."""
    kept = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True)])
    text = _every_character()
    edges = np.zeros(len(text) + 1, np.bool_)
    for _, (start, stop) in kept.pre_tokenize_str(text):
        edges[start] = edges[stop] = True
    alone = edges[:-1] & edges[1:]  # a single other character between two digits is alone too
    asked = np.flatnonzero(alone)
    found = np.zeros(len(text), np.bool_)
    found[[place for place in asked if len(kept.pre_tokenize_str(f"a{text[place]}a")) == 3]] = True
    return _with_surrogates(found)


def _only(characters: str) -> NDArray[np.bool_]:
    found = np.zeros(CODE_POINTS, np.bool_)
    found[[ord(character) for character in characters]] = True
    return found


def _with_surrogates(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    whole = np.zeros(CODE_POINTS, np.bool_)
    whole[: _SURROGATES.start] = found[: _SURROGATES.start]
    whole[_SURROGATES.stop :] = found[_SURROGATES.start :]
    return whole
