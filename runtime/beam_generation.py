"""Generation with beams: prompt by prompt, each is read once, searched, and the best texts become completions.

Stop strings end a beam as transformers' stopping criteria do, with the token that completes one: it counts in the
score, and its text is not shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from .beam_groups import search_groups
from .beams import Beams, Ends, Hypothesis, search
from .cache import AnyCache
from .logits import Logits, Pipeline
from .reading import PREFILL_CHUNK, Reader
from .request import Request
from .results import Completion, Ranking
from .row import Row
from .session import Session
from .stopping import Cancellation, Interruption
from .tokenizer import Tokenizer, text_after

_CONTEXT = 8  # tokens before those that are looked at, for the spaces and characters that they begin with


class BeamGeneration:
    """One call: its prompts are searched one after the other in one cache, which has a row for each beam."""

    def __init__(
        self,
        session: Session,
        cache: AnyCache,
        request: Request,
        interruption: Interruption,
        *,
        chunk: int | None,
        padding: int | None,
    ):
        """Prepare a call.

        Args:
            session: of the graph.
            cache: with `num_beams` rows; what it holds is forgotten.
            request: the prompts and options.
            interruption: ends the search; the best texts by then are the result.
            chunk: tokens to read at once; None: the graph reads any text in one piece only.
            padding: the token with which groups of beams go on that are done; None: the first end token.
        """
        self._session, self._cache, self._request = session, cache, request
        self._config = request.config
        self._interruption = interruption
        self._reader = Reader(session, chunk, interruption)
        self._reads_in_chunks = chunk is not None
        ends = self._config.eos_token_id
        self._padding = padding if padding is not None else ends[0] if ends else 0

    def run(self) -> list[Completion]:
        """Completions prompt by prompt, each prompt's best first."""
        # The search itself was interrupted where need be; what it has found is told in full.
        rows = self._request.rows(Interruption(Cancellation()))
        count = self._config.num_return_sequences
        completions = []
        for index, prompt in enumerate(self._request.prompts):
            completions += self._complete(
                prompt, self._request.limits[index], rows[index * count : (index + 1) * count]
            )
        return completions

    def _complete(self, prompt: list[int], limit: int, rows: list[Row]) -> list[Completion]:
        started = time.perf_counter()
        logits = self._read(prompt, rows)
        seconds = time.perf_counter() - started
        for row in rows:
            row.begin(seconds)
        if logits is None:
            for row in rows:
                row.end(self._interruption.reason() or "cancelled")
            return [row.completion(self._request.seed) for row in rows]
        found = self._search(prompt, limit, logits)[: len(rows)]
        return [self._tell(row, prompt, hypothesis) for row, hypothesis in zip(rows, found, strict=True)]

    def _read(self, prompt: list[int], rows: list[Row]) -> Logits | None:
        """Read a prompt into the cache's row 0; the logits of its last token, None when interrupted."""
        self._cache.truncate(0)
        self._cache.ensure(len(prompt))
        cache = self._cache.row(0)
        if not self._config.prompt_logprobs:
            return self._reader.last_logits(cache, prompt)
        read = self._reader.measure(cache, prompt, prompt[1:], self._config.logprobs)
        if read is None:
            return None
        for row in rows:
            row.prompt_readings = read[0]
        return read[1]

    def _search(self, prompt: list[int], limit: int, logits: Logits) -> list[Hypothesis]:
        config = self._config
        ends = Ends(
            (*config.eos_token_id, *config.stop_token_ids),
            limit,
            _stop_test(self._request.encoder.tokenizer, prompt, config.stop_strings),
            interruption=self._interruption.reason,
        )
        pipeline = self._request.pipeline(least_kept=ends.candidates_per_beam)
        looks_at_best = pipeline == Pipeline() and self._request.seed is None and config.num_beam_groups == 1
        enough = ends.candidates_per_beam * config.num_beams if looks_at_best else None
        beams = Beams(self._session, self._cache, logits, prompt, limit, enough)
        if config.num_beam_groups > 1:
            return search_groups(beams, config, pipeline, ends, self._padding)
        return search(beams, config, pipeline, ends, self._request.seed)

    def _tell(self, row: Row, prompt: list[int], hypothesis: Hypothesis) -> Completion:
        """The completion of a text that was found; its row makes the text and knows why it ended."""
        tops: Sequence[Ranking] = [()] * len(hypothesis.token_ids)
        if self._config.logprobs:
            tops = self._rankings(prompt, hypothesis)
        for token, logprob, top in zip(hypothesis.token_ids, hypothesis.logprobs, tops, strict=True):
            row.take(token, logprob, top)
            if row.finish_reason is not None:
                break
        row.end(hypothesis.forced or "length")
        return replace(row.completion(self._request.seed), score=hypothesis.score)

    def _rankings(self, prompt: list[int], hypothesis: Hypothesis) -> Sequence[Ranking]:
        """The likeliest tokens at each step of a text: it is read once more, since beams keep none of them."""
        ids = [*prompt, *hypothesis.token_ids]
        kept = len(prompt) - 1 if self._reads_in_chunks else 0
        row = self._cache.row(0)
        row.truncate(kept)
        read = Reader(self._session, PREFILL_CHUNK if self._reads_in_chunks else None).measure(
            row, ids[kept:-1], ids[kept + 1 :], self._config.logprobs
        )
        assert read is not None  # nothing interrupts this
        return read[0].top[-len(hypothesis.token_ids) :]


def _stop_test(
    tokenizer: Tokenizer, prompt: Sequence[int], stop_strings: Sequence[str]
) -> Callable[[Sequence[int]], bool] | None:
    """Whether the last of a text's new tokens completes a stop string, None where there are no stop strings."""
    if not stop_strings:
        return None
    # Every token but special ones, which are few, adds a byte at least.
    count = max(len(text.encode()) for text in stop_strings) + _CONTEXT

    def test(new_tokens: Sequence[int]) -> bool:
        before = [*prompt, *new_tokens[:-count]][-_CONTEXT:]
        text = text_after(tokenizer, before, new_tokens[-count:])
        return any(stop in text for stop in stop_strings)

    return test
