"""The patterns that byte-level tokenizers cut a text into words by, as a handful of choices.

All of them read: a contraction; letters, with something before them; numbers; other characters, with a blank before and
maybe line breaks behind them; white space, whose last character is left to the word behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...runtime.errors import UnsupportedTokenizerError


@dataclass(frozen=True)
class Pattern:
    """How a text is cut into words."""

    letter: str = r"\p{L}"  # the characters that make up words, as the library's regex writes them
    any_before_letters: bool = False  # any character but letters, numbers and line breaks; otherwise a blank only
    blank_before_numbers: bool = True
    number_length: int = 0  # most characters of a number; 0: as many as there are
    breaks_by_themselves: bool = False  # line breaks go with the characters before, and end white space
    contractions_in_capitals: bool = False
    digits_alone: bool = False  # each is a text of its own
    begins_with_blank: bool = False  # a blank goes before every text that has none


_GPT2 = Pattern()
_CL100K = Pattern(
    any_before_letters=True,
    blank_before_numbers=False,
    number_length=3,
    breaks_by_themselves=True,
    contractions_in_capitals=True,
)
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _cl100k(numbers: str, letter: str = r"\p{L}") -> str:
    """The text of the pattern of cl100k's kind."""
    return (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{_class(letter)}+|{numbers}"
        rf"| ?[^\s{letter}\p{{N}}]+[\r\n]*|{_SPACES}"
    )


def _class(letter: str) -> str:
    return letter if letter.count("p{") == 1 else f"[{letter}]"


_SPLITS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": _GPT2,
    _cl100k(r"\p{N}{1,3}"): _CL100K,
    _cl100k(r"\p{N}"): replace(_CL100K, number_length=1),
    _cl100k(r"\p{N}+"): replace(_CL100K, number_length=0),
    _cl100k(r"\p{N}", r"\p{L}\p{M}"): replace(_CL100K, number_length=1, letter=r"[\p{L}\p{M}]"),
}


def pattern_of(stored: dict[str, Any] | None) -> Pattern:
    """The choices of a tokenizer.json's pre-tokenizer.

    Raises:
        UnsupportedTokenizerError: it is none of the known ones.
    """
    parts = _parts(stored)
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return replace(_GPT2, begins_with_blank=parts[0]["add_prefix_space"])
    if not kinds or kinds[-1] != "ByteLevel" or parts[-1]["add_prefix_space"]:
        raise _unknown(stored)
    if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and parts[1].get("use_regex", True):
        return replace(_GPT2, digits_alone=True)
    if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
        split = parts[0]
        known = _SPLITS.get(split["pattern"].get("Regex", ""))
        if known is not None and split["behavior"] in ("Isolated", "Removed") and not _drops(split):
            return known
    raise _unknown(stored)


def _drops(split: dict[str, Any]) -> bool:
    """Whether a Split would drop text: its pattern matches every character, so it must keep what matches."""
    return bool((split["behavior"] == "Removed") != split["invert"])


def _parts(stored: dict[str, Any] | None) -> list[dict[str, Any]]:
    if stored is None:
        return []
    return (
        [part for each in stored["pretokenizers"] for part in _parts(each)]
        if stored["type"] == "Sequence"
        else [stored]
    )


def _unknown(stored: dict[str, Any] | None) -> UnsupportedTokenizerError:
    what = "no pre-tokenizer" if stored is None else f"the pre-tokenizer {' + '.join(map(_told, _parts(stored)))}"
    return UnsupportedTokenizerError(
        f"the tokenizer has {what}: expected the byte-level pattern of GPT-2, with or without single digits, or of "
        "cl100k's kind (Llama 3, Qwen); tokenize with the tokenizers library and use generate.onnx"
    )


def _told(part: dict[str, Any]) -> str:
    pattern = part.get("pattern")
    return part["type"] if pattern is None else f"{part['type']} by {next(iter(pattern.values()))!r}"
