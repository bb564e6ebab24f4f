"""What a byte-level BPE tokenizer does, read from its tokenizer.json as the tokenizers library reads it.

Everything that is no byte-level BPE, and every choice that would change ids and is not expressed in the graph, is
refused by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from ...runtime.errors import BundleError, UnsupportedTokenizerError
from .patterns import Pattern, pattern_of

_FLAGS = ("single_word", "lstrip", "rstrip")


@dataclass(frozen=True)
class SpecialToken:
    """A token that is found in a text as it is written, before anything else."""

    id: int
    content: bytes
    skipped: bool  # when decoding


@dataclass(frozen=True)
class ByteLevelTokenizer:
    """Vocabulary, merges and rules of a byte-level BPE."""

    token_bytes: tuple[bytes, ...]  # by id; empty for an id without token
    byte_ids: tuple[int, ...]  # [256]; -1: the vocabulary has no such token, and the library drops the byte
    merges: tuple[tuple[int, int, int], ...]  # left, right, merged; by rank
    special_tokens: tuple[SpecialToken, ...]
    pattern: Pattern
    whole_words: tuple[
        tuple[tuple[int, ...], int], ...
    ]  # words taken as they are: what merging makes of them, their id
    prefix_ids: tuple[int, ...]  # what encoding puts before every text
    suffix_ids: tuple[int, ...]


def read_byte_level(path: Path) -> ByteLevelTokenizer:
    """Read a tokenizer.json.

    Raises:
        UnsupportedTokenizerError: it is of another kind, or has a choice that the graph does not express.
        BundleError: the file is missing or no tokenizer.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        library = tokenizers.Tokenizer.from_file(str(path))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing: expected the model's tokenizer; export the model again") from error
    except Exception as error:  # tokenizers raises bare Exception
        raise BundleError(f"{path} is no tokenizer ({error}): export the model again") from error
    model = stored["model"]
    _check_model(model)
    _check_around(stored)
    vocabulary = model["vocab"]
    letters = byte_letters()
    byte_ids = tuple(vocabulary.get(letter, -1) for letter in letters)
    if model.get("unk_token") is not None and -1 in byte_ids:
        raise _unsupported("an unknown token that stands for bytes outside its vocabulary")
    whole_words = _whole_words(stored)
    if whole_words and -1 in byte_ids:
        raise _unsupported("ignore_merges, and bytes outside its vocabulary, which are dropped")
    prefix_ids, suffix_ids = _around(library)
    return ByteLevelTokenizer(
        token_bytes=_token_bytes(library, letters),
        byte_ids=byte_ids,
        merges=_merges(model, vocabulary),
        special_tokens=_special_tokens(library),
        pattern=pattern_of(stored["pre_tokenizer"]),
        whole_words=whole_words,
        prefix_ids=prefix_ids,
        suffix_ids=suffix_ids,
    )


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a vocabulary: itself where it can be seen, else one from 256 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return [chr(byte if byte in seen else 256 + unseen.index(byte)) for byte in range(256)]


def _check_model(model: dict[str, Any]) -> None:
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise _unsupported(f"a {model.get('type', 'nameless')} model instead of BPE")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            raise _unsupported(f"{option} {model[option]!r}")


def _whole_words(stored: dict[str, Any]) -> tuple[tuple[tuple[int, ...], int], ...]:
    """The tokens that merging does not lead to: `ignore_merges` takes a word that is a token as it is.

    Added tokens are no words: they are found before.
    """
    model = stored["model"]
    if not model.get("ignore_merges"):
        return ()
    plain = tokenizers.models.BPE(model["vocab"], [_pair(merge) for merge in model["merges"]])
    letters = set(byte_letters())
    added = {token["content"] for token in stored["added_tokens"]}
    merged = {
        token: tuple(each.id for each in plain.tokenize(token))
        for token in model["vocab"].keys() - added
        if letters.issuperset(token)
    }
    return tuple((ids, model["vocab"][token]) for token, ids in sorted(merged.items()) if len(ids) != 1)


def _check_around(stored: dict[str, Any]) -> None:
    """Check what stands before and behind the model."""
    if stored.get("normalizer") is not None:
        raise _unsupported(f"the normalizer {stored['normalizer'].get('type')}")
    decoder = stored.get("decoder") or {}
    if decoder.get("type") != "ByteLevel":
        raise _unsupported(f"the decoder {decoder.get('type', 'none')} instead of ByteLevel")
    _check_post_processor(stored.get("post_processor"))


def _check_post_processor(stored: dict[str, Any] | None) -> None:
    if stored is None or stored["type"] in ("ByteLevel", "TemplateProcessing"):
        return
    if stored["type"] != "Sequence":
        raise _unsupported(f"the post-processor {stored['type']}")
    for each in stored["processors"]:
        _check_post_processor(each)


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """A merge's two tokens: tokenizer.json has them as a pair or, in older files, with a space between."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _merges(model: dict[str, Any], vocabulary: dict[str, int]) -> tuple[tuple[int, int, int], ...]:
    last: dict[tuple[int, int], tuple[int, int]] = {}  # of a pair that is listed twice the library takes the last
    for rank, merge in enumerate(model["merges"]):
        left, right = _pair(merge)
        last[vocabulary[left], vocabulary[right]] = (rank, vocabulary[left + right])
    by_rank = sorted((rank, *pair, merged) for pair, (rank, merged) in last.items())
    return tuple((left, right, merged) for _, left, right, merged in by_rank)


def _special_tokens(library: tokenizers.Tokenizer) -> tuple[SpecialToken, ...]:
    """The tokens that were added to the vocabulary.

    The library looks for those that are not normalized first, and for the others in what is left; the graph looks once,
    so the others must not get in the way of the first.
    """
    added = [(number, token) for number, token in library.get_added_tokens_decoder().items() if token.content]
    for _, token in added:
        for flag in _FLAGS:
            if getattr(token, flag):
                raise _unsupported(f"the added token {token.content!r} with {flag}")
    for _, late in added:
        for _, early in added:
            if late.normalized and not early.normalized and _covers(late.content, early.content):
                raise _unsupported(f"the normalized token {late.content!r}, which may overlap {early.content!r}")
    return tuple(SpecialToken(number, token.content.encode("utf-8"), token.special) for number, token in added)


def _covers(late: str, early: str) -> bool:
    """Whether an occurrence of `late` may begin before, and take characters of, one of `early`."""
    return early in late or any(late.endswith(early[:size]) for size in range(1, len(early)))


def _token_bytes(library: tokenizers.Tokenizer, letters: list[str]) -> tuple[bytes, ...]:
    """The bytes of every token: those its letters stand for, or its text where one of them stands for none."""
    byte_of = {letter: byte for byte, letter in enumerate(letters)}
    vocabulary = library.get_vocab(with_added_tokens=True)
    found = [b""] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        known = all(letter in byte_of for letter in token)
        found[number] = bytes(byte_of[letter] for letter in token) if known else token.encode("utf-8")
    return tuple(found)


def _around(library: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that a text gets before and behind it, which do not depend on the text."""
    library.no_padding()
    library.no_truncation()
    plain = library.encode("a", add_special_tokens=False).ids
    whole = library.encode("a", add_special_tokens=True).ids
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    raise _unsupported("a post-processor that changes a text's own ids")


def _unsupported(what: str) -> UnsupportedTokenizerError:
    return UnsupportedTokenizerError(
        f"the tokenizer has {what}: only byte-level BPE is written as a graph; tokenize with the tokenizers library "
        "and use generate.onnx"
    )
