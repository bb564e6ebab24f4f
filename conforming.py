"""`onnxgpt verify --vectors`: whether a bundle computes what its vectors say, on the machine where this runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .runtime.distributions import log_sum_exp
from .runtime.engine import ort
from .runtime.errors import BundleError
from .runtime.model import Model
from .runtime.random import uniform
from .runtime.tokenizer import StreamDecoder

VECTORS_FILE = "vectors.json"
_FORMAT, _FORMAT_VERSION = "onnxgpt-vectors", 1
_REASONS = ("length", "eos", "context")  # by the numbers that generate.onnx gives


@dataclass
class Part:
    """One kind of vectors: how many there are, what failed, and the worst difference where there is a tolerance."""

    name: str
    cases: int = 0
    failures: list[str] = field(default_factory=list)
    worst: float | None = None

    def expect(self, what: str, found: Any, expected: Any) -> None:
        """Count a case, and note it when it is not as expected."""
        self.cases += 1
        if found != expected:
            self.failures.append(f"{what}: found {found!r}, expected {expected!r}")

    def line(self) -> str:
        """What came of it, in a line."""
        if not self.cases:
            return f"{self.name}: none to compare; no choice of this model stands out enough to be the same everywhere"
        worst = "" if self.worst is None else f", at most {self.worst:.1e} off"
        if not self.failures:
            return f"{self.name}: {self.cases} as they should be{worst}"
        return f"{self.name}: {len(self.failures)} of {self.cases} wrong{worst}; the first, {self.failures[0]}"


def read_vectors(directory: Path) -> dict[str, Any]:
    """The vectors of a packaged bundle.

    Raises:
        BundleError: there are none, or they are none of version 1.
    """
    path = directory / VECTORS_FILE
    if not path.is_file():
        raise BundleError(f"{directory} has no {VECTORS_FILE}: make it with `onnxgpt package {directory} --out DIR`")
    try:
        vectors: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = vectors["format"] == _FORMAT and vectors["version"] == _FORMAT_VERSION
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} can't be read ({error!r}): package the bundle again") from error
    if not known:
        raise BundleError(f"{path} holds no vectors of version {_FORMAT_VERSION}: package the bundle again")
    return vectors


def check_vectors(model: Model, vectors: dict[str, Any]) -> list[Part]:
    """Compute everything anew and compare; the graphs that a package adds too, where they are."""
    directory = model.bundle.directory
    parts = [_random(vectors), _tokenizer(model, vectors), _streams(model, vectors), check_logits(model, vectors)]
    parts.append(check_texts(model, vectors))
    for name, check in (("generate.onnx", _generate_graph), ("text.onnx", _text_graph)):
        if (directory / name).is_file():
            parts.append(check(directory / name, vectors))
    return parts


def _random(vectors: dict[str, Any]) -> Part:
    part = Part("random numbers")
    for case in vectors["random"]:
        found = uniform(int(case["seed"]), case["sequence"], case["step"])
        part.expect(f"seed {case['seed']}, step {case['step']}", found, case["number"])
    return part


def _tokenizer(model: Model, vectors: dict[str, Any]) -> Part:
    part = Part("tokenizer")
    for case in vectors["tokenizer"]:
        part.expect(repr(case["text"]), model.tokenizer.encode(case["text"]), case["ids"])
        part.expect(repr(case["ids"]), model.tokenizer.decode(case["ids"]), case["decoded"])
    return part


def _streams(model: Model, vectors: dict[str, Any]) -> Part:
    part = Part("streams")
    for case in vectors["streams"]:
        decoder = StreamDecoder(model.tokenizer)
        pieces = [decoder.push(token) for token in case["ids"]]
        part.expect(repr(case["ids"]), [*pieces, decoder.flush()], [*case["pieces"], case["rest"]])
    return part


def check_logits(model: Model, vectors: dict[str, Any]) -> Part:
    """Log-probabilities within the tolerance: read at once, and token by token."""
    part = Part("logits", worst=0.0)
    ways: dict[str, Callable[[Model, Sequence[int]], NDArray[np.float32]]] = {
        "at once": lambda model, ids: model.logits(ids),
        "token by token": _stepped_logits,
    }
    for case in vectors["logits"]:
        for way, read in ways.items():
            rows = read(model, case["ids"])
            for place in case["positions"]:
                row = rows[place["position"]]
                found = row[place["tokens"]] - log_sum_exp(row[None])[0]
                worst = float(np.abs(found - np.array(place["logprobs"])).max())
                part.worst = max(part.worst or 0.0, worst)
                part.cases += 1
                if not worst <= vectors["tolerance"]:
                    where = f"position {place['position']} read {way}"
                    part.failures.append(f"{where}: {worst:.3g} off, expected {vectors['tolerance']} at most")
    return part


def _stepped_logits(model: Model, ids: Sequence[int]) -> NDArray[np.float32]:
    with closing(model.session.new_cache(capacity=len(ids), limit=len(ids))) as cache:
        rows = [model.session.step(np.array([[token]], np.int64), cache)[0, -1].copy() for token in ids]
    return np.stack(rows)


def check_texts(model: Model, vectors: dict[str, Any]) -> Part:
    """Texts with their options, whole."""
    part = Part("texts")
    for case in vectors["texts"]:
        made = model.generate(case["prompt"], **case["options"])[0]
        found = (list(made.token_ids), made.text, made.finish_reason)
        part.expect(_named(case), found, (case["ids"], case["text"], case["finish_reason"]))
    return part


def _named(case: dict[str, Any]) -> str:
    return f"{case['prompt']!r} with {case['options']}"


# The graphs of a package


def _generate_graph(path: Path, vectors: dict[str, Any]) -> Part:
    part = Part(path.name)
    session = _open(path)
    for case in vectors["texts"]:
        feeds = {"prompt_ids": np.array(case["prompt_ids"], np.int64)} | dict(_settings(case["options"]))
        ids, reason = session.run(["generated_ids", "finish_reason"], feeds)
        part.expect(_named(case), (ids.tolist(), _REASONS[int(reason[0])]), (case["ids"], case["finish_reason"]))
    return part


def _text_graph(path: Path, vectors: dict[str, Any]) -> Part:
    part = Part(path.name)
    session = _open(path)
    for case in vectors["texts"]:
        feeds = {"prompt": np.frombuffer(case["prompt"].encode("utf-8"), np.uint8)} | dict(_settings(case["options"]))
        (text,) = session.run(["continuation"], feeds)
        # It ends before a character that is cut; a stream shows replacement characters there.
        part.expect(_named(case), text.tobytes().decode("utf-8"), case["text"].rstrip("\ufffd"))
    return part


def _open(path: Path) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors, no warnings
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _settings(options: dict[str, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The settings of a package's graphs for options of a vector; an empty one is the bundle's own."""
    for name in ("max_new_tokens", "top_k"):
        yield name, np.array([options[name]] if name in options else [], np.int64)
    for name in ("top_p", "repetition_penalty"):
        yield name, np.array([options[name]] if name in options else [], np.float32)
    yield "temperature", np.array([options["temperature"] if options["do_sample"] else 0.0], np.float32)
    yield "seed", np.array([options.get("seed", 0)], np.uint64).view(np.int64)
    yield "end_ids", np.array([options["eos_token_id"]] if "eos_token_id" in options else [], np.int64)
