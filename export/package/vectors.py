"""Vectors of a bundle: what any port of the runtime has to compute, as plain data in `vectors.json`.

A port on another machine has other kernels, so its logits differ in the last digits, and those of an 8-bit model that
keeps its activations in another way in the second. So logits have a tolerance, and texts are cut where a difference of
that size could change the next token: each is given whole, and has to come out whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._version import __version__
from ...runtime.config import GenerationConfig
from ...runtime.distributions import log_sum_exp
from ...runtime.logits import Pipeline, Rows, processors_for
from ...runtime.model import Model
from ...runtime.random import threefry2x32, uniform
from ...runtime.results import Completion
from ...runtime.sampling import Sampler
from ...runtime.tokenizer import StreamDecoder
from .vector_texts import PROMPTS, TOKENIZER_TEXTS, special_texts

VECTORS_FILE = "vectors.json"
FORMAT = "onnxgpt-vectors"
FORMAT_VERSION = 1

# In log-probability. With rounded weights, engines differ in how they round activations, or whether they do at all.
_EXACT_TOLERANCE, _ROUNDED_TOLERANCE = 1e-3, 0.1
_TRIALS = 8  # other logits, off by up to half the tolerance, that have to give the same token
_NEW_TOKENS = 40
_MOVED = 512  # of the likeliest tokens; the others are hardly ever chosen
_LEAST_NEW_TOKENS = 4
_KEPT_TEXTS = 3  # of each kind of options: those that stay certain longest
_LIKELIEST = 8  # tokens of a position
_POSITIONS = 6  # of a text whose logits are told
_KINDS: tuple[dict[str, Any], ...] = (
    {"do_sample": False},
    {"do_sample": False, "repetition_penalty": 1.3},
    {"do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 1.0, "repetition_penalty": 1.0, "seed": 7},
    {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 2**40 + 5},
)
_RANDOM = ((0, 0, 0), (7, 0, 0), (7, 0, 1), (7, 1, 0), (2**64 - 1, 3, 1000), (123456789012345, 0, 42))


def make_vectors(model: Model) -> dict[str, Any]:
    """Compute the vectors of a loaded bundle; what they hold is written down in CONTRACT.md."""
    manifest = model.bundle.manifest
    is_exact = manifest.quantization is None and manifest.graph.dtype == "float32"
    tolerance = _EXACT_TOLERANCE if is_exact else _ROUNDED_TOLERANCE
    texts = list(_texts(model, tolerance))
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": manifest.name,
        "graph_sha256": manifest.files[manifest.graph.file].sha256,
        "created_by": f"onnxgpt {__version__}",
        "tolerance": tolerance,
        "random": list(_random()),
        "tokenizer": [_tokenizer_case(model, text) for text in (*TOKENIZER_TEXTS, *special_texts(_added(model)))],
        "streams": [_stream(model, ids) for ids in _scattered_ids(model)],
        "logits": [_logits(model, ids) for ids in _read_texts(model, texts)],
        "texts": texts,
    }


def write_vectors(model: Model, directory: Path) -> Path:
    """Write the vectors of a loaded bundle as `vectors.json` into a directory."""
    path = directory / VECTORS_FILE
    path.write_text(json.dumps(make_vectors(model), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


def _random() -> Iterator[dict[str, Any]]:
    """Numbers of the stream; seeds as text, since JSON's numbers are exact to 2^53 only in most languages."""
    for seed, sequence, step in _RANDOM:
        words = threefry2x32((seed & 0xFFFFFFFF, seed >> 32), (step, sequence))
        yield {
            "seed": str(seed),
            "sequence": sequence,
            "step": step,
            "words": list(words),
            "number": uniform(seed, sequence, step),
        }


# Tokenizer


def _added(model: Model) -> list[str]:
    data = model.bundle.read_json("tokenizer.json")
    return [token["content"] for token in data.get("added_tokens", ()) if token.get("special")]


def _tokenizer_case(model: Model, text: str) -> dict[str, Any]:
    ids = model.tokenizer.encode(text)
    return {"text": text, "ids": ids, "decoded": model.tokenizer.decode(ids)}


def _scattered_ids(model: Model) -> Iterator[list[int]]:
    """Token ids whose bytes make and break characters: of texts, and drawn from all the vocabulary."""
    for text in TOKENIZER_TEXTS:
        if any(ord(character) > 0x7F for character in text):
            yield model.tokenizer.encode(text)
    tokens = min(model.session.spec.vocab_size, model.tokenizer.vocab_size)
    for sequence in range(8):
        yield [int(uniform(1, sequence, step) * tokens) for step in range(24)]


def _stream(model: Model, ids: list[int]) -> dict[str, Any]:
    """What a stream gives for each token, and at its end what it held back; joined, the text."""
    decoder = StreamDecoder(model.tokenizer)
    return {"ids": ids, "pieces": [decoder.push(token) for token in ids], "rest": decoder.flush()}


# Logits


def _read_texts(model: Model, texts: list[dict[str, Any]]) -> list[list[int]]:
    """Token ids of two texts to tell logits of: generated ones, or prompts where nothing generated is certain."""
    if texts:
        return [[*case["prompt_ids"], *case["ids"]] for case in texts[:2]]
    prompts = (model.tokenizer.encode(prompt) for prompt in PROMPTS)
    return [ids for ids in prompts if len(ids) <= model.context_length and max(ids) < model.session.spec.vocab_size][:2]


def _logits(model: Model, ids: list[int]) -> dict[str, Any]:
    """Log-probabilities of the likeliest tokens at some positions, the last among them."""
    rows = model.logits(ids)
    positions = sorted({round(place) for place in np.linspace(0, len(ids) - 1, _POSITIONS)})
    return {"ids": ids, "positions": [_position(rows[position], position) for position in positions]}


def _position(logits: NDArray[np.float32], position: int) -> dict[str, Any]:
    tokens = np.argsort(-logits, kind="stable")[:_LIKELIEST]
    logprobs = logits[tokens] - log_sum_exp(logits[None])[0]
    return {"position": position, "tokens": tokens.tolist(), "logprobs": [round(float(value), 6) for value in logprobs]}


# Texts


def _texts(model: Model, tolerance: float) -> Iterator[dict[str, Any]]:
    """Of each kind of options, the texts that stay certain longest; then one that an end token ends."""
    for options in _KINDS:
        cases = [case for prompt in PROMPTS if (case := _text(model, prompt, options, tolerance))]
        cases.sort(key=lambda case: -len(case["ids"]))
        yield from cases[:_KEPT_TEXTS]
        if options == _KINDS[0] and cases and (ended := _ended(model, cases[0])):
            yield ended


def _text(model: Model, prompt: str, options: dict[str, Any], tolerance: float) -> dict[str, Any] | None:
    """A continuation as far as it is certain; None where it is so for a few tokens only, or does not fit."""
    ids = model.tokenizer.encode(prompt)
    if len(ids) + _NEW_TOKENS > model.context_length or max(ids) >= model.session.spec.vocab_size:
        return None
    longest = model.generate(ids, max_new_tokens=_NEW_TOKENS, **options)[0]
    certain = certain_tokens(model, ids, longest.token_ids, options, tolerance)
    if certain < _LEAST_NEW_TOKENS:
        return None
    return _case(prompt, ids, options | {"max_new_tokens": certain}, model)


def _ended(model: Model, case: dict[str, Any]) -> dict[str, Any] | None:
    """The same text with one of its own tokens, new at its place, for the end."""
    ids = case["ids"]
    ends = [token for place, token in enumerate(ids) if token not in ids[:place] and place > 2]
    if not ends:
        return None
    return _case(case["prompt"], case["prompt_ids"], case["options"] | {"eos_token_id": ends[-1]}, model)


def _case(prompt: str, ids: list[int], options: dict[str, Any], model: Model) -> dict[str, Any]:
    made: Completion = model.generate(ids, **options)[0]
    return {
        "prompt": prompt,
        "prompt_ids": ids,
        "options": options,
        "ids": list(made.token_ids),
        "text": made.text,
        "finish_reason": made.finish_reason,
    }


def certain_tokens(
    model: Model, prompt_ids: Sequence[int], new_ids: Sequence[int], options: dict[str, Any], tolerance: float
) -> int:
    """How many new tokens come out the same with logits that are a little off: tried with some."""
    config = GenerationConfig.resolve(model.generation_defaults, options)
    pipeline = processors_for(
        config, vocabulary_size=model.session.spec.vocab_size, context_length=model.context_length, seed=config.seed
    )
    sampler = Sampler(is_greedy=config.is_greedy, seed=config.seed or 0)
    ids = np.array([*prompt_ids, *new_ids], np.int64)
    logits = model.logits(ids[:-1])[len(prompt_ids) - 1 :]
    for step, token in enumerate(new_ids):
        text = ids[: len(prompt_ids) + step]
        others = _others(logits[step], tolerance, step)
        if any(choice != token for choice in _choices(pipeline, sampler, text, len(prompt_ids), others)):
            return step
    return len(new_ids)


def _others(logits: NDArray[np.float32], tolerance: float, step: int) -> NDArray[np.float32]:
    """Logits as they are, and others, the likeliest of them moved: [trials + 1, vocabulary]."""
    likely = np.argpartition(-logits, _MOVED)[:_MOVED] if len(logits) > _MOVED else np.arange(len(logits))
    noise = np.random.default_rng(step).uniform(-0.5, 0.5, (_TRIALS, len(likely))) * tolerance
    moved = np.repeat(logits[None], _TRIALS + 1, axis=0)
    moved[1:, likely] += noise.astype(np.float32)
    return moved


def _choices(
    pipeline: Pipeline, sampler: Sampler, text: NDArray[np.int64], prompt_length: int, logits: NDArray[np.float32]
) -> Iterator[int]:
    for row in logits:
        scores, ids = pipeline.shortlist(Rows([text], [prompt_length], [0]), row[None])
        yield sampler.choose(scores[0], len(text) - prompt_length, None if ids is None else ids[0])
