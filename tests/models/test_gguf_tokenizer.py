"""Tokenizers of GGUF files against independent judges: SentencePiece's own ids, and byte-pair encoding written out.

The published ids of SmolLM2's tokenizer are in `test_smollm2.py`.
"""

from __future__ import annotations

import json
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import regex
from tokenizers import Tokenizer

from onnxgpt.models.gguf_tokenizer import end_of_text_ids, gguf_tokenizer_files
from onnxgpt.runtime.errors import CheckpointError, UnsupportedModelError

ROOT = Path(__file__).parents[2]
TEXTS = [
    "Once upon a time, the King's 3 daughters went 1,234 miles.",
    "  two  spaces\n\n\tand   tabs \r\n",
    "“Naïve” Löwe — don't! I'LL we'Ve 你好 🦊 e\u0301",
    "x = 3.14159; y2k ٣٤ ½",
    "",
]
# OpenAI's encoder.py (GPT-2), Meta's tokenizer.py (Llama 3); SmolLM splits off every digit first.
GPT2_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


QWEN2_PIECES = LLAMA3_PIECES.replace(r"\p{N}{1,3}", r"\p{N}")  # Qwen's tokenizer.json
# OpenAI's o200k_base (tiktoken), Mistral's tekken.json, and BLOOM's tokenizer.json.
GPT4O_PIECES = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN_PIECES = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES = {
    "llama-bpe": LLAMA3_PIECES, "dbrx": LLAMA3_PIECES, "qwen2": QWEN2_PIECES, "stablelm2": QWEN2_PIECES,
    "gpt-4o": GPT4O_PIECES, "tekken": TEKKEN_PIECES,
}  # fmt: skip
COMPOSED = ("qwen2", "olmo")  # transformers' Qwen2Tokenizer and GPTNeoXTokenizer


def byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for each byte: its own character where printable, else one from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


def split(text: str, pre: str) -> list[str]:
    if pre in PIECES:
        return regex.findall(PIECES[pre], text)
    if pre == "bloom":  # isolated: what is between pieces is a piece of its own
        return [piece for piece in regex.split(r"( ?[^(\s|.,!?…。，、।۔،)]+)", text) if piece]
    parts = [part for part in regex.split(r"(\p{N})", text) if part] if pre in ("smollm", "starcoder") else [text]
    return [piece for part in parts for piece in regex.findall(GPT2_PIECES, part)]


def reference_ids(text: str, metadata: dict[str, Any], pre: str) -> list[int]:
    """Byte-pair encoding as Sennrich et al. (2016) tell it: merge the pair of the lowest rank until none is left."""
    ids = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(metadata["tokenizer.ggml.merges"])}
    letters = byte_letters()
    found = []
    for piece in split(text, pre):
        symbols = [letters[byte] for byte in piece.encode()]
        if pre in ("llama-bpe", "tekken") and "".join(symbols) in ids:
            symbols = ["".join(symbols)]
        while pairs := [pair for pair in pairwise(symbols) if pair in ranks]:
            best = min(pairs, key=lambda pair: ranks[pair])
            at = next(i for i in range(len(symbols) - 1) if (symbols[i], symbols[i + 1]) == best)
            symbols[at : at + 2] = ["".join(best)]
        found += [ids[symbol] for symbol in symbols]
    return found


def bpe_metadata(pre: str = "gpt-2") -> dict[str, Any]:
    """The embedded model's vocabulary as a GGUF file keeps it."""
    model = json.loads((ROOT / "models/fairytale/checkpoint/tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] + [1] * (len(tokens) - 1),
        "tokenizer.ggml.merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
    }


def sentencepiece_metadata() -> dict[str, Any]:
    data = json.loads((ROOT / "tests/data/sentencepiece_bpe.json").read_text())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": data["pieces"],
        "tokenizer.ggml.scores": data["scores"],
        "tokenizer.ggml.token_type": data["types"],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def convert(metadata: dict[str, Any], vocab_size: int = 5000) -> Tokenizer:
    files = gguf_tokenizer_files(metadata, vocab_size=vocab_size, context_length=64, origin="model.gguf")
    return Tokenizer.from_str(files["tokenizer.json"].decode())


@pytest.mark.parametrize("pre", ["gpt-2", "phi-2", "olmo", "smollm", "starcoder", "bloom", *PIECES])
def test_byte_level_ids_are_those_of_the_algorithm(pre: str) -> None:
    metadata = bpe_metadata(pre)
    tokenizer = convert(metadata)
    code = (ROOT / "models/weight_rules.py").read_text()  # has many kinds of pieces
    for text in [*TEXTS, code]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        text = unicodedata.normalize("NFC", text) if pre in COMPOSED else text
        assert ids == reference_ids(text, metadata, pre)
        assert tokenizer.decode(ids) == text


def test_the_embedded_vocabulary_gives_the_ids_of_its_own_tokenizer() -> None:
    theirs = Tokenizer.from_file(str(ROOT / "models/fairytale/checkpoint/tokenizer.json"))
    for text in TEXTS:
        assert convert(bpe_metadata()).encode(text).ids == theirs.encode(text).ids


def test_sentencepiece_ids_are_those_of_sentencepiece() -> None:
    tokenizer = convert(sentencepiece_metadata())
    cases = json.loads((ROOT / "tests/data/sentencepiece_bpe.json").read_text())["texts"]
    assert len(cases) == 20
    for case in cases:
        ids = tokenizer.encode(case["text"]).ids
        assert ids == [1, *case["ids"]]  # texts begin with the begin token by default
        assert tokenizer.decode(ids) == case["text"]


def test_a_sentencepiece_vocabulary_without_a_leading_space() -> None:
    tokenizer = convert(sentencepiece_metadata() | {"tokenizer.ggml.add_space_prefix": False})
    ids = tokenizer.encode("king", add_special_tokens=False).ids
    assert not tokenizer.id_to_token(ids[0]).startswith("▁")
    assert tokenizer.decode(ids) == "king"


def test_special_tokens_are_found_in_text_and_stand_around_it() -> None:
    around = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    tokenizer = convert(bpe_metadata() | around)
    plain = convert(bpe_metadata())
    assert plain.encode("a<|endoftext|>b").ids == [*plain.encode("a").ids, 0, *plain.encode("b").ids]
    assert tokenizer.encode("a").ids == [0, *plain.encode("a").ids, 0]
    for pre in ("llama-bpe", "tekken"):  # llama.cpp's default
        assert convert(bpe_metadata(pre)).encode("a").ids == [0, *plain.encode("a").ids]
    spm = convert(sentencepiece_metadata())
    user_defined = spm.token_to_id("<turn>")
    assert user_defined in spm.encode("a<turn>b").ids
    assert "<turn>" in spm.decode(spm.encode("a<turn>b").ids)  # text, not control


def test_ids_that_end_a_text_are_those_of_text_turn_and_message() -> None:
    metadata = bpe_metadata()
    assert end_of_text_ids(metadata) == 0
    assert end_of_text_ids(metadata | {"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 0}) == [0, 7]
    assert end_of_text_ids({}) is None


@pytest.mark.parametrize(
    ("change", "error", "part"),
    [
        ({"model": "t5"}, UnsupportedModelError, "t5"),
        ({"pre": "viking"}, UnsupportedModelError, "viking"),
        ({"pre": None}, UnsupportedModelError, "None"),
        ({"tokens": []}, CheckpointError, "no tokenizer"),
        ({"merges": None}, CheckpointError, "merges"),
        ({"merges": ["a zzzzzz"]}, CheckpointError, "fit together"),
        ({"token_type": [1, 1]}, CheckpointError, "2 token types"),
        ({"eos_token_id": 4096}, CheckpointError, "eos_token_id is 4096"),
        ({"add_bos_token": True, "bos_token_id": None}, CheckpointError, "bos_token"),
    ],
)
def test_tokenizers_that_cannot_be_trusted_are_refused(
    change: dict[str, Any], error: type[CheckpointError], part: str
) -> None:
    metadata = bpe_metadata() | {f"tokenizer.ggml.{name}": value for name, value in change.items()}
    metadata = {name: value for name, value in metadata.items() if value is not None}
    with pytest.raises(error, match=part):
        convert(metadata)


def test_sentencepiece_choices_that_are_not_implemented_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="remove_extra_whitespaces"):
        convert(sentencepiece_metadata() | {"tokenizer.ggml.remove_extra_whitespaces": True})
    with pytest.raises(CheckpointError, match="scores"):
        convert(sentencepiece_metadata() | {"tokenizer.ggml.scores": [0.0]})


def test_twice_the_same_token_and_ids_beyond_the_embedding_are_refused() -> None:
    metadata = bpe_metadata()
    doubled = [*metadata["tokenizer.ggml.tokens"][:-1], "a"]
    with pytest.raises(CheckpointError, match="twice"):
        convert(metadata | {"tokenizer.ggml.tokens": doubled})
    with pytest.raises(CheckpointError, match="4095 rows"):
        convert(metadata, vocab_size=4095)
