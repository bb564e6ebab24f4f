"""The loops of generation, in three layers: logits to token ids, ids to events with text, events to a finished text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .cache import AnyCache
from .config import GenerationConfig
from .logits import Logits, Pipeline, Rows, log_sum_exp
from .sampling import Sampler
from .session import Session
from .stopping import StopMatcher
from .tokenizer import StreamDecoder

PREFILL_CHUNK = 256  # tokens: enough rows for full speed, few enough to bound the memory of activations


@dataclass(frozen=True)
class Token:
    """One streamed event. The texts of all events joined are the completion's text.

    A token's text may come with a later event, while it may still be part of a character or of a stop string.
    `logprob` is the natural logarithm of the model's own probability, before penalties, temperature and filters.
    """

    id: int
    text: str
    logprob: float
    finish_reason: str | None = None  # with the last event: "eos", "stop" (a stop string) or "length"


@dataclass(frozen=True)
class Timings:
    """Seconds that a completion took: reading the prompt, and all steps after it."""

    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Completion:
    """A finished sequence. `token_ids` are the new tokens, the one that ended the text included."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # of each new token, see Token
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seed: int | None  # repeats a sampled text; None when greedy
    timings: Timings


@dataclass(frozen=True)
class Step:
    """One generated token: its id, its log-probability, and "eos" or "length" when it is the last."""

    id: int
    logprob: float
    finish_reason: str | None


def prefill(session: Session, cache: AnyCache, ids: Sequence[int], chunk: int = PREFILL_CHUNK) -> Logits:
    """Read a prompt into an empty or shorter cache of one row; the last token's logits float32 [1, vocabulary]."""
    array = np.asarray(ids, np.int64)[None]
    for start in range(0, array.shape[1], chunk):
        logits = session.step(array[:, start : start + chunk], cache)
    return _last(logits)


def decode(
    session: Session,
    cache: AnyCache,
    logits: Logits,
    prompt_ids: Sequence[int],
    config: GenerationConfig,
    pipeline: Pipeline,
    sampler: Sampler,
    limit: int,
) -> Iterator[Step]:
    """Generate up to `limit` tokens after a prefilled prompt.

    Args:
        logits: of the prompt's last token, [1, vocabulary].
    """
    token_ids = np.empty(len(prompt_ids) + limit, np.int64)
    token_ids[: len(prompt_ids)] = prompt_ids
    for index in range(limit):
        length = len(prompt_ids) + index
        scores = pipeline(Rows([token_ids[:length]], [len(prompt_ids)], [sampler.sequence]), logits)
        token = sampler.choose(scores[0], index)
        token_ids[length] = token
        finish = "eos" if token in config.eos_token_id else "length" if index + 1 == limit else None
        yield Step(token, float(logits[0, token] - log_sum_exp(logits)[0]), finish)
        if finish:
            return
        logits = _last(session.step(np.array([[token]]), cache))


def with_text(steps: Iterator[Step], decoder: StreamDecoder, stop_strings: Sequence[str]) -> Iterator[Token]:
    """Add the text to each step, and end before the first stop string."""
    matcher = StopMatcher(stop_strings)
    for step in steps:
        piece = "" if step.finish_reason == "eos" else decoder.push(step.id)
        if step.finish_reason:
            piece += decoder.flush()
        text, stopped = matcher.push(piece)
        if stopped:
            yield Token(step.id, text, step.logprob, "stop")
            return
        if step.finish_reason:
            text += matcher.flush()
        yield Token(step.id, text, step.logprob, step.finish_reason)


def complete(tokens: Iterator[Token], prompt_tokens: int, seed: int | None, prefill_seconds: float) -> Completion:
    """Collect a stream into a finished text."""
    started = time.perf_counter()
    events = list(tokens)
    return Completion(
        text="".join(event.text for event in events),
        token_ids=tuple(event.id for event in events),
        logprobs=tuple(event.logprob for event in events),
        finish_reason=events[-1].finish_reason or "length",
        prompt_tokens=prompt_tokens,
        completion_tokens=len(events),
        seed=seed,
        timings=Timings(prefill_seconds, time.perf_counter() - started),
    )


def _last(logits: NDArray[np.floating]) -> Logits:
    """[batch, kept, vocabulary] of any float type -> float32 [batch, vocabulary] of the last position."""
    return logits[:, -1].astype(np.float32, copy=False)
