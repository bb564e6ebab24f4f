"""The tokenizer inside a GGUF file as a Hugging Face `tokenizer.json`, with the same ids for the same text.

Two kinds: byte-level BPE ("gpt2"), for the pre-tokenizers that can be stated exactly, and SentencePiece's BPE
("llama"), whose merges follow from the scores (Kudo and Richardson 2018; the highest-scored piece is merged first).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ..runtime.errors import CheckpointError, UnsupportedModelError
from .tokenizer_files import GENERIC_CLASS, check_tokenizer, to_json

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # token types of GGUF
_SPACE = "▁"  # what SentencePiece writes for a space

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3_PATTERN = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END
_QWEN2_PATTERN = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FIRST_WORDS = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+"
_SECOND_WORDS = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_TEKKEN_PATTERN = rf"{_FIRST_WORDS}|{_SECOND_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*" + _END
_GPT4O_PATTERN = (
    rf"{_FIRST_WORDS}{_CONTRACTIONS}?|{_SECOND_WORDS}{_CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*"
    + _END
)
_BLOOM_PATTERN = r" ?[^(\s|.,!?…。，、।۔،)]+"


@dataclass(frozen=True, kw_only=True)
class _BytePairs:
    """What a name of a pre-tokenizer says of a byte-level BPE."""

    pattern: str | None = None  # of pieces; None: GPT-2's
    single_digits: bool = False  # each digit is split off first
    composed: bool = False  # text in Unicode's normal form C; GGUF leaves it unsaid
    whole_words_first: bool = False  # a word of the vocabulary is one token whatever the merges say
    begins: bool = False  # texts begin with the begin token where the file does not say

    def pieces(self) -> pre_tokenizers.PreTokenizer:
        """Splits a text and writes its bytes as letters."""
        steps: list[pre_tokenizers.PreTokenizer] = []
        if self.single_digits:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        if self.pattern is not None:
            steps.append(pre_tokenizers.Split(Regex(self.pattern), behavior="isolated"))
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.pattern is None)
        return pre_tokenizers.Sequence([*steps, letters]) if steps else letters


_GPT2 = _BytePairs()
_SINGLE_DIGITS = _BytePairs(single_digits=True)
_LLAMA3 = _BytePairs(pattern=_LLAMA3_PATTERN, whole_words_first=True, begins=True)
_PRE_TOKENIZERS = {
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "olmo": _BytePairs(composed=True),  # GPT-NeoX, Pythia
    "smollm": _SINGLE_DIGITS,
    "starcoder": _SINGLE_DIGITS,
    "refact": _SINGLE_DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "dbrx": _BytePairs(pattern=_LLAMA3_PATTERN),  # Phi-4
    "qwen2": _BytePairs(pattern=_QWEN2_PATTERN, composed=True),
    "deepseek-r1-qwen": _BytePairs(pattern=_QWEN2_PATTERN),
    "stablelm2": _BytePairs(pattern=_QWEN2_PATTERN),
    "tekken": _BytePairs(pattern=_TEKKEN_PATTERN, whole_words_first=True, begins=True),  # Mistral Nemo
    "gpt-4o": _BytePairs(pattern=_GPT4O_PATTERN),  # Phi-4-mini
    "bloom": _BytePairs(pattern=_BLOOM_PATTERN),
}


def gguf_tokenizer_files(
    metadata: Mapping[str, Any], *, vocab_size: int, context_length: int, origin: str
) -> dict[str, bytes]:
    """`tokenizer.json`, `tokenizer_config.json` and, when there is one, `chat_template.jinja`.

    Raises:
        CheckpointError: no tokenizer in the file, or one whose parts do not fit together.
        UnsupportedModelError: a kind of tokenizer or a pre-tokenizer that is not implemented, named.
    """
    kind = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if kind is None or not tokens:
        raise CheckpointError(f"{origin} has no tokenizer: expected tokenizer.ggml.model and tokenizer.ggml.tokens")
    if kind not in ("gpt2", "llama"):
        raise UnsupportedModelError(f"{origin}: tokenizers of kind {kind!r} are not implemented; gpt2 and llama are")
    if len(set(tokens)) != len(tokens):
        raise CheckpointError(f"{origin}: {len(tokens) - len(set(tokens))} token(s) stand twice in the vocabulary")
    types = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(types) != len(tokens):
        raise CheckpointError(f"{origin}: {len(types)} token types for {len(tokens)} tokens")
    try:
        tokenizer = (_byte_level_bpe if kind == "gpt2" else _sentencepiece_bpe)(metadata, tokens, types, origin)
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{origin}: vocabulary and merges do not fit together ({error})") from error
    _add_special_tokens(tokenizer, tokens, types)
    special = _special_tokens(metadata, tokens, origin)
    _add_template(tokenizer, metadata, kind, special, origin)
    content = tokenizer.to_str().encode()
    _check_ids(content, tokens, vocab_size, origin)
    settings: dict[str, Any] = {
        "tokenizer_class": GENERIC_CLASS,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        **special,
    }
    files = {"tokenizer.json": content, "tokenizer_config.json": to_json(settings)}
    template = metadata.get("tokenizer.chat_template")
    return files | ({"chat_template.jinja": template.encode()} if template else {})


def end_of_text_ids(metadata: Mapping[str, Any]) -> int | list[int] | None:
    """The ids that end a text: of the text itself, of a turn, of a message."""
    names = ("eos_token_id", "eot_token_id", "eom_token_id")
    found = [metadata[f"tokenizer.ggml.{name}"] for name in names if f"tokenizer.ggml.{name}" in metadata]
    ids = list(dict.fromkeys(found))
    return ids if len(ids) > 1 else next(iter(ids), None)


def _byte_level_bpe(metadata: Mapping[str, Any], tokens: list[str], types: list[int], origin: str) -> Tokenizer:
    name = metadata.get("tokenizer.ggml.pre")
    if name not in _PRE_TOKENIZERS:
        raise UnsupportedModelError(
            f"{origin}: the pre-tokenizer {name!r} is not implemented; implemented are {', '.join(_PRE_TOKENIZERS)}"
        )
    chosen = _PRE_TOKENIZERS[name]
    merges = metadata.get("tokenizer.ggml.merges")
    if not merges:
        raise CheckpointError(f"{origin} has no tokenizer.ggml.merges: expected those of its BPE vocabulary")
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=chosen.whole_words_first))
    if chosen.composed:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = chosen.pieces()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece_bpe(metadata: Mapping[str, Any], tokens: list[str], types: list[int], origin: str) -> Tokenizer:
    for flag in ("remove_extra_whitespaces", "precompiled_charsmap"):
        if metadata.get(f"tokenizer.ggml.{flag}"):
            raise UnsupportedModelError(f"{origin}: tokenizer.ggml.{flag} is not implemented")
    scores = metadata.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise CheckpointError(f"{origin}: {len(scores or [])} scores for {len(tokens)} tokens: expected one each")
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    mergeable = {index for index, kind in enumerate(types) if kind not in (_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges_from_scores(vocabulary, scores, mergeable),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=_BYTE in types,
        )
    )
    spaces = normalizers.Replace(" ", _SPACE)
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    else:
        tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges_from_scores(
    vocabulary: Mapping[str, int], scores: list[float], mergeable: set[int]
) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, the highest-scored piece first, as SentencePiece merges them."""
    merges = []
    for piece, index in vocabulary.items():
        if index not in mergeable:
            continue
        for cut in range(1, len(piece)):
            left, right = vocabulary.get(piece[:cut]), vocabulary.get(piece[cut:])
            if left in mergeable and right in mergeable:
                merges.append((-scores[index], index, left, right, (piece[:cut], piece[cut:])))
    return [pair for *_, pair in sorted(merges, key=lambda merge: merge[:4])]


def _add_special_tokens(tokenizer: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Control tokens are special; user-defined ones are found in raw text but are text themselves."""
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types, strict=True)
         if kind in (_CONTROL, _UNKNOWN)]
    )  # fmt: skip
    tokenizer.add_tokens(
        [AddedToken(token, special=False, normalized=False) for token, kind in zip(tokens, types, strict=True)
         if kind == _USER_DEFINED]
    )  # fmt: skip


def _special_tokens(metadata: Mapping[str, Any], tokens: list[str], origin: str) -> dict[str, str]:
    special = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if index is None:
            continue
        if index >= len(tokens):
            raise CheckpointError(f"{origin}: {key}_token_id is {index}, the vocabulary has {len(tokens)} tokens")
        special[f"{name}_token"] = tokens[index]
    return special


def _add_template(
    tokenizer: Tokenizer, metadata: Mapping[str, Any], kind: str, special: Mapping[str, str], origin: str
) -> None:
    """The tokens around a text; where the file does not say, llama.cpp's defaults."""
    byte_pairs = _PRE_TOKENIZERS.get(str(metadata.get("tokenizer.ggml.pre"))) if kind == "gpt2" else None
    begins = byte_pairs is None or byte_pairs.begins
    before = "bos_token" if metadata.get("tokenizer.ggml.add_bos_token", begins) else None
    after = "eos_token" if metadata.get("tokenizer.ggml.add_eos_token", False) else None
    wanted = [name for name in (before, after) if name]
    for name in wanted:
        if name not in special:
            raise CheckpointError(f"{origin}: texts are to have a {name}, but none is named")
    if wanted:
        around = [special[before]] if before else [], [special[after]] if after else []
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*around[0], "$A", *around[1]],
            pair=[*around[0], "$A", *around[1], *around[0], "$B:1", *around[1]],
            special_tokens=[(special[name], tokenizer.token_to_id(special[name])) for name in wanted],
        )


def _check_ids(content: bytes, tokens: list[str], vocab_size: int, origin: str) -> None:
    tokenizer = check_tokenizer(content, vocab_size=vocab_size, origin=origin)
    found = tokenizer.get_vocab(with_added_tokens=True)
    odd = [token for index, token in enumerate(tokens) if found.get(token) != index]
    if odd or len(found) != len(tokens):
        raise CheckpointError(f"{origin}: the converted tokenizer has other ids than the file, first for {odd[:1]}")
