"""Row: one sequence in the making, and the one place where a chosen token has its consequences."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .config import GenerationConfig
from .logits import Logits
from .reading import Readings
from .results import Completion, Ranking, Timings, Token
from .sampling import Sampler
from .stopping import Interruption, StopMatcher
from .tokenizer import StreamDecoder


class Row:
    """What belongs to one sequence alone, whatever other rows it is stepped with.

    Whoever has found a token for it, by one step or by speculating on several, hands it to `take`, until
    `finish_reason` is set.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        config: GenerationConfig,
        *,
        limit: int,
        sampler: Sampler,
        interruption: Interruption,
        decoder: StreamDecoder | None = None,
        limit_reason: str = "length",
        prompt_index: int = 0,
    ):
        """A row before its first token.

        Args:
            prompt_ids: what it continues.
            config: tells which tokens and texts end it.
            limit: the most new tokens.
            sampler: chooses its tokens, by the sequence's own random stream.
            interruption: of the whole call.
            decoder: makes its text; None where nobody asks for text. Stop strings need it.
            limit_reason: why it ends when it has `limit` new tokens: "length" or "context".
            prompt_index: among the prompts of the call.
        """
        self.prompt_length = len(prompt_ids)
        self.limit = limit
        self.sampler = sampler
        self.prompt_index = prompt_index
        self.index = prompt_index * config.num_return_sequences + sampler.sequence
        self.finish_reason: str | None = None
        self.logprobs: list[float] = []
        self.top_logprobs: list[Ranking] = []
        self.prompt_readings = Readings()  # of the prompt's tokens but the first, if asked for
        self.prefill_seconds = 0.0
        self.last_token = int(prompt_ids[-1])  # the newest one
        self._has_slid = False
        self._ids: NDArray[np.int64] = np.empty(len(prompt_ids) + min(limit, 256), np.int64)
        self._ids[: len(prompt_ids)] = prompt_ids
        self._length = len(prompt_ids)
        self._limit_reason = limit_reason
        self._end_of_text = frozenset(config.eos_token_id)
        self._stop_tokens = frozenset(config.stop_token_ids)
        self._interruption = interruption
        self._decoder = decoder
        self._matcher = StopMatcher(config.stop_strings) if config.stop_strings else None
        self._pieces: list[str] = []
        self._started = time.perf_counter()
        self._decode_seconds = 0.0

    @property
    def token_ids(self) -> NDArray[np.int64]:
        """The prompt's and the new ones, int64 [tokens so far]: a view, to be read at once."""
        return self._ids[: self._length]

    @property
    def new_tokens(self) -> int:
        """How many there are."""
        return self._length - self.prompt_length

    def choose(self, scores: Logits, ids: NDArray[np.int64] | None = None) -> int:
        """The next token by processed logits of all tokens, or of those given; nothing changes until it is taken."""
        return self.sampler.choose(scores, self.new_tokens, ids)

    def begin(self, prefill_seconds: float) -> None:
        """Note that the prompt is read, and how long that took; what follows counts as decoding."""
        self.prefill_seconds = prefill_seconds
        self._started = time.perf_counter()

    def take(self, token: int, logprob: float, top: Ranking = ()) -> Token:
        """Append a token, and tell what comes of it; with it the row may end."""
        self._append(token)
        self.logprobs.append(logprob)
        if top:
            self.top_logprobs.append(top)
        reason = self._reason_to_end(token)
        text = ""
        if self._decoder is not None:
            text = self._decoder.push(token) if reason not in ("eos", "stop_token") else ""
            if reason:
                text += self._decoder.flush()
            if self._matcher is not None:
                text, stopped = self._matcher.push(text)
                if stopped:
                    reason = "stop"
                elif reason:
                    text += self._matcher.flush()
            if text:
                self._pieces.append(text)
        if reason:
            self._finish(reason)
        return Token(token, text, logprob, reason, self.index, top)

    def slide(self, kept: int, context_length: int) -> tuple[NDArray[np.int64], int]:
        """Drop the oldest half of a full window behind its first `kept` tokens, `context_length` - 2 at most.

        A full window is `context_length` tokens that were read, and the newest one, which was not. Two tokens at least
        are dropped, so that there is room for the newest and the next one.

        Returns:
            The window that is left, the newest token included; and how many of its first tokens were kept.
        """
        kept = min(kept, self.prompt_length, context_length - 2)
        dropped = max(2, (context_length - kept) // 2)
        recent = context_length + 1 - kept - dropped
        self._has_slid = True
        return np.concatenate([self.token_ids[:kept], self.token_ids[-recent:]]), kept

    def shares_prompt_with(self, other: Row) -> bool:
        """Whether both continue the same prompt, and this one's place in the cache still begins with it."""
        return self.prompt_index == other.prompt_index and not self._has_slid

    def end(self, reason: str) -> None:
        """End the row as it is, without another token. A row that has ended stays as it is."""
        if self.finish_reason is None:
            if self._decoder is not None:
                self._pieces.append(self._rest(self._decoder))
            self._finish(reason)

    def completion(self, seed: int | None) -> Completion:
        """What has come of it."""
        return Completion(
            text="".join(self._pieces),
            token_ids=tuple(self.token_ids[self.prompt_length :].tolist()),
            logprobs=tuple(self.logprobs),
            finish_reason=self.finish_reason or "cancelled",
            prompt_tokens=self.prompt_length,
            completion_tokens=self.new_tokens,
            seed=seed,
            timings=Timings(self.prefill_seconds, self._decode_seconds),
            prompt_index=self.prompt_index,
            sequence_index=self.sampler.sequence,
            top_logprobs=tuple(self.top_logprobs),
            prompt_logprobs=tuple(self.prompt_readings.logprobs),
            prompt_top_logprobs=tuple(self.prompt_readings.top),
        )

    def _append(self, token: int) -> None:
        if self._length == len(self._ids):
            grown = np.empty(2 * self._length, np.int64)
            grown[: self._length] = self._ids
            self._ids = grown
        self._ids[self._length] = token
        self._length += 1
        self.last_token = token

    def _reason_to_end(self, token: int) -> str | None:
        if token in self._end_of_text:
            return "eos"
        if token in self._stop_tokens:
            return "stop_token"
        if self.new_tokens >= self.limit:
            return self._limit_reason
        return self._interruption.reason()

    def _rest(self, decoder: StreamDecoder) -> str:
        """The text that was held back."""
        text = decoder.flush()
        if self._matcher is None:
            return text
        text, stopped = self._matcher.push(text)
        return text if stopped else text + self._matcher.flush()

    def _finish(self, reason: str) -> None:
        self.finish_reason = reason
        self._decode_seconds = time.perf_counter() - self._started
