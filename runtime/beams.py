"""Beam search: several texts grow side by side, and those that are likeliest as a whole are kept.

The search is that of Hugging Face transformers 5: in every step the best continuations of all beams are looked at,
twice as many as there are beams (more with several end-of-text tokens). Those that end become finished texts, whose
score is the sum of their log-probabilities divided by length ** length_penalty; the best others are the next beams.
Diverse groups of beams are in beam_groups.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .cache import AnyCache
from .candidates import Candidates, best_candidates, drawn_candidates
from .config import GenerationConfig
from .logits import Logits, Pipeline, Rows, log_softmax
from .random import uniform
from .session import Session
from .shortlists import continuations

UNREACHABLE = np.float32(-1e9)  # a beam's score that no other falls below: transformers' own number


@dataclass(frozen=True)
class Hypothesis:
    """A text that the search found."""

    score: float  # sum of the processed log-probabilities over length ** length_penalty
    token_ids: tuple[int, ...]  # the new ones, what ended the text included
    logprobs: tuple[float, ...]  # the model's own, of each new token
    forced: str | None  # why the text ended though it could have gone on; None: its last token ended it


@dataclass(frozen=True)
class Ends:
    """What ends texts: some tokens, what a test says of a text's new tokens, the limit, and interruptions."""

    tokens: tuple[int, ...]
    limit: int  # new tokens
    test: Callable[[Sequence[int]], bool] | None = None
    limit_reason: str = "length"
    interruption: Callable[[], str | None] = lambda: None

    def forced(self, length: int) -> str | None:
        """Why no text may become longer than `length` new tokens, None when it may; to be asked once in a step."""
        return self.limit_reason if length >= self.limit else self.interruption()

    def found(self, beams: Beams, candidates: Candidates) -> NDArray[np.bool_]:
        """Of each candidate whether its token ends it; the test is asked about the others only."""
        ended = np.isin(candidates.tokens, self.tokens)
        if self.test is not None:
            for index in np.flatnonzero(~ended):
                ended[index] = self.test(beams.new_tokens(candidates.beams[index], candidates.tokens[index]))
        return ended

    @property
    def candidates_per_beam(self) -> int:
        """How many continuations to look at for each beam, so that some go on even with all end tokens among them."""
        return max(2, 1 + len(self.tokens))


class Beams:
    """The texts that grow: their tokens, their scores, and their rows in the cache. Beams are in order of choice."""

    def __init__(
        self,
        session: Session,
        cache: AnyCache,
        logits: Logits,
        prompt_ids: Sequence[int],
        limit: int,
        enough: int | None = None,
    ):
        """Start from a prompt that was read into row 0 of a cache with one row for each beam.

        Args:
            logits: of the prompt's last token, [1, vocabulary].
            limit: the most new tokens.
            enough: of each beam no more than so many of the likeliest tokens are looked at; None: at all.
        """
        self.count = cache.batch
        self.length = 0  # new tokens so far
        self.scores = np.zeros(self.count, np.float32)  # sums of processed log-probabilities
        self._session, self._cache = session, cache
        self._prompt_length = len(prompt_ids)
        self._token_ids = np.empty((self.count, len(prompt_ids) + limit), np.int64)
        self._token_ids[:, : len(prompt_ids)] = prompt_ids
        self._logprobs = np.empty((self.count, limit), np.float32)
        self._rows = cache.reorder([0] * self.count)  # of each beam its row in the cache
        self._enough = enough if enough is not None and enough < session.spec.choices else None
        # The model's own log-probabilities of next tokens, [beams, tokens], and of which: None: of all, in order.
        self.next_logprobs: Logits = log_softmax(np.repeat(logits, self.count, axis=0))
        self._next_ids: NDArray[np.int64] | None = None

    @property
    def rows(self) -> Rows:
        """What processors want to know of the beams."""
        length = self._prompt_length + self.length
        ids = list(self._token_ids[:, :length])
        return Rows(ids, [self._prompt_length] * self.count, range(self.count))

    def new_tokens(self, beam: int, token: int) -> list[int]:
        """The tokens after the prompt of a beam continued by `token`."""
        return [*self._token_ids[beam, self._prompt_length :][: self.length].tolist(), int(token)]

    def named(self, candidates: Candidates) -> Candidates:
        """Candidates among the columns of `next_logprobs` by the ids of their tokens."""
        if self._next_ids is None:
            return candidates
        return replace(candidates, tokens=self._next_ids[candidates.beams, candidates.tokens])

    def hypothesis(self, candidates: Candidates, index: int, score: float, forced: str | None) -> Hypothesis:
        """The text of a candidate that ends here."""
        beam, token = candidates.beams[index], candidates.tokens[index]
        last = self._logprobs_of(candidates.beams[index : index + 1], candidates.tokens[index : index + 1])
        logprobs = [*self._logprobs[beam, : self.length].tolist(), *last.tolist()]
        return Hypothesis(score, tuple(self.new_tokens(beam, token)), tuple(logprobs), forced)

    def follow(self, chosen: Candidates) -> None:
        """Take a step: the chosen candidates, one for each beam, become the beams."""
        start, stop = self._prompt_length, self._prompt_length + self.length
        self._token_ids[:, start:stop] = self._token_ids[chosen.beams, start:stop]
        self._token_ids[:, stop] = chosen.tokens
        self._logprobs[:, : self.length] = self._logprobs[chosen.beams, : self.length]
        self._logprobs[:, self.length] = self._logprobs_of(chosen.beams, chosen.tokens)
        self.scores = chosen.scores
        self.length += 1
        self._rows = self._cache.reorder([self._rows[beam] for beam in chosen.beams])
        ids = np.empty((self.count, 1), np.int64)
        ids[self._rows, 0] = chosen.tokens
        self._look_ahead(ids)

    def _look_ahead(self, ids: NDArray[np.int64]) -> None:
        """Read the newest token of each row of the cache, [rows, 1], and see what may come next."""
        self._next_ids = None
        if self._enough is None:
            logits = self._session.step(ids, self._cache)[:, -1]
        else:
            choices = self._session.step_choices(ids, self._cache)
            found = continuations(choices, self._session.spec.vocab_size, self._enough)
            if found is not None:
                self._next_ids, self.next_logprobs = found[0][self._rows], found[1][self._rows]
                return
            logits = self._session.last_logits(self._cache)
        self.next_logprobs = log_softmax(logits[self._rows].astype(np.float32, copy=False))

    def _logprobs_of(self, beams: NDArray[np.int64], tokens: NDArray[np.int64]) -> Logits:
        columns = tokens
        if self._next_ids is not None:
            columns = (self._next_ids[beams] == tokens[:, None]).argmax(axis=1)
        result: Logits = self.next_logprobs[beams, columns]
        return result


def search(
    beams: Beams, config: GenerationConfig, pipeline: Pipeline, ends: Ends, seed: int | None
) -> list[Hypothesis]:
    """Beam search, or beam sampling with a seed: as many hypotheses as beams, the best first."""
    beams.scores[1:] = UNREACHABLE  # all beams are the prompt still, so one of them stands for all
    finished: list[Hypothesis] = []
    while True:
        scores = pipeline(beams.rows, beams.next_logprobs)
        candidates = _choose(scores, beams, ends.candidates_per_beam * beams.count, seed)
        length = beams.length + 1
        found, forced = ends.found(beams, candidates), ends.forced(length)
        ended = found | (forced is not None)
        for index in np.flatnonzero(ended[: beams.count]).tolist():  # those behind are only there to go on with
            score = penalized(candidates.scores[index], length, config)
            finished.append(beams.hypothesis(candidates, index, score, None if found[index] else forced))
        finished = sorted(finished, key=lambda hypothesis: -hypothesis.score)[: beams.count]
        running = candidates.scores + ended.astype(np.float32) * UNREACHABLE
        best = np.argsort(-running, kind="stable")[: beams.count]
        is_full = len(finished) == beams.count
        if ended.all() or (is_full and config.early_stopping is True):
            return finished
        if is_full and attainable(running[best[0]], length, ends.limit, config) <= finished[-1].score:
            return finished
        beams.follow(Candidates(candidates.beams[best], candidates.tokens[best], running[best]))


def penalized(total: np.float32, length: int, config: GenerationConfig) -> float:
    """The score of a text with so many new tokens and this sum of log-probabilities."""
    return float(total / np.float32(length**config.length_penalty))


def attainable(total: np.float32, length: int, limit: int, config: GenerationConfig) -> float:
    """The score that running beams are expected to reach at most, when the best has this sum of log-probabilities.

    With early_stopping "never" no beam reaches more. Otherwise longer texts are passed over, and the search may end
    although one of them would have had a better score.
    """
    reaches_limit = config.early_stopping == "never" and config.length_penalty > 0
    return penalized(total, limit if reaches_limit else length, config)


def _choose(scores: Logits, beams: Beams, count: int, seed: int | None) -> Candidates:
    count = min(count, scores.size)
    if seed is None:
        return beams.named(best_candidates(scores, beams.scores, count))
    numbers = (uniform(seed, draw, beams.length) for draw in range(count))
    return drawn_candidates(scores, beams.scores, count, numbers)
