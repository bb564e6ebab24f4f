"""What generation gives: one Token for each new token, one Completion for each finished sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class RankedToken(NamedTuple):
    """A token and the natural logarithm of the model's own probability of it."""

    id: int
    logprob: float


Ranking = tuple[RankedToken, ...]  # the likeliest first


@dataclass(frozen=True)
class Token:
    """One streamed event. The texts of all events of a row, joined, are its completion's text.

    A token's text may come with a later event, while it may still be part of a character or of a stop string.
    `logprob` is the natural logarithm of the model's own probability, before penalties, temperature and filters.

    The last event of a row says why it ended: "eos" (an end-of-text token), "stop" (a stop string), "stop_token",
    "length" (as many tokens as were asked for), "context" (the context is full), "time", or "cancelled".
    """

    id: int
    text: str
    logprob: float
    finish_reason: str | None = None
    row: int = 0  # prompt index * num_return_sequences + index of the sequence within its prompt
    top: Ranking = ()  # as many as the option `logprobs` asks for


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
    finish_reason: str  # as of the last Token; also "callback": `on_token` ended it
    prompt_tokens: int
    completion_tokens: int
    seed: int | None  # repeats a sampled text; None when greedy
    timings: Timings
    prompt_index: int = 0
    sequence_index: int = 0  # within its prompt
    score: float | None = None  # with num_beams: sum of processed log-probabilities over length ** length_penalty
    top_logprobs: tuple[Ranking, ...] = ()  # with the option `logprobs`: of each new token's step
    prompt_logprobs: tuple[float, ...] = ()  # with the option `prompt_logprobs`: of the prompt's tokens but the first
    prompt_top_logprobs: tuple[Ranking, ...] = ()  # with both
