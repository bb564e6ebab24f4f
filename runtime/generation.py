"""The loop of generation: rows are read, stepped together, and leave when they end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from .cache import AnyCache
from .config import GenerationConfig
from .likelihood import Likelihood
from .logits import Logits, Pipeline, Rows
from .reading import Reader, Readings, last_position
from .results import Completion, Token
from .row import Row
from .session import Session
from .shortlists import Chosen, Shortlists
from .stopping import Interruption

__all__ = ["Batch", "Completion", "Token", "generate_rows"]


def generate_rows(batch: Batch, rows: Sequence[Row], size: int) -> Iterator[Token]:
    """Generate rows to their ends, at most `size` at a time; the others wait for a place.

    Yields:
        Each new token as it comes. A row may be ended from outside (`Row.end`) between two of them.
    """
    waiting = deque(rows)
    while waiting or batch.rows:
        while waiting and len(batch.rows) < size:
            yield from batch.admit(waiting.popleft())
        yield from batch.step()


class Batch:
    """Rows that are stepped together in one cache: each lies in the cache's row of its own place in `rows`.

    What a row gets does not depend on its place or on its neighbours. In 8 bits a batch rounds activations otherwise
    than a single row does, since other kernels run, and texts may differ from those of a cache of one row.
    """

    def __init__(
        self,
        session: Session,
        cache: AnyCache,
        config: GenerationConfig,
        pipeline: Pipeline,
        interruption: Interruption,
        *,
        chunk: int | None,
        context_length: int,
    ):
        """A batch without rows.

        Args:
            session: of the graph.
            cache: with room for as many rows as will be here at a time, an even number of them if there are several;
                what it holds is forgotten.
            config: tells what happens at the context's end, and which log-probabilities are asked for.
            pipeline: the logits processors.
            interruption: of the whole call.
            chunk: tokens to read at once; None: the graph reads any text in one piece only.
            context_length: the most tokens of a row that the graph sees at once.
        """
        self.rows: list[Row] = []
        self._session = session
        self._cache = cache
        self._config = config
        self._pipeline = pipeline
        self._processes = pipeline != Pipeline()  # an empty one would cost more than it does
        self._interruption = interruption
        self._reader = Reader(session, chunk, interruption)
        self._context_length = context_length
        self._is_greedy = config.is_greedy
        self._ids: NDArray[np.int64] = np.zeros((cache.batch, 1), np.int64)  # what is read in the next step
        self._pairs_rows = cache.batch > 1 and session.steps_rows_together
        self._likelihood = Likelihood()
        spec = session.spec
        self._shortlists: Shortlists | None = None  # None: the graph has none, or the options look at all logits
        if Shortlists.are_enough(config, pipeline, spec.choices):
            self._shortlists = Shortlists(config, pipeline, spec.vocab_size)
        self._prompt: tuple[int, Logits, Readings] | None = None  # the last one that was read, if more rows want it
        cache.clear()

    def admit(self, row: Row) -> Iterator[Token]:
        """Read a row's prompt, and choose its first token. An interrupted row ends without one."""
        started = time.perf_counter()
        self._drop_companion()
        place = self._cache.add_row()
        logits = self._read_prompt(row, place)
        if logits is None:
            self._cache.drop_row(place)
            row.end(self._interruption.reason() or "cancelled")
            return
        row.begin(time.perf_counter() - started)
        self.rows.append(row)
        yield from self._choose([row], logits)

    def step(self) -> Iterator[Token]:
        """Let the rows that have ended leave, and choose a token for each of the others."""
        self._drop_finished()
        if self._config.context_end == "slide":
            yield from self._slide_full_rows()
        if not self.rows:
            return
        ids = self._last_tokens()
        if self._shortlists is None:
            logits = last_position(self._session.step(ids, self._cache))
        else:
            choices = self._session.step_choices(ids, self._cache).of_first(len(self.rows))
            if (chosen := self._shortlists.choose(self.rows, choices)) is not None:
                yield from self._take(self.rows, chosen)
                return
            logits = self._session.last_logits(self._cache)
        yield from self._choose(self.rows, logits[: len(self.rows)])

    def _choose(self, rows: list[Row], logits: Logits) -> Iterator[Token]:
        """Give each row a token by its logits [rows, vocabulary]."""
        if not self._processes:
            scores = logits
            tokens = [row.choose(row_scores) for row, row_scores in zip(rows, logits, strict=True)]
        else:
            about = Rows(
                [row.token_ids for row in rows],
                [row.prompt_length for row in rows],
                [row.sampler.sequence for row in rows],
            )
            scores, ids = self._pipeline.shortlist(about, logits)
            candidates = [None] * len(rows) if ids is None else ids
            tokens = [row.choose(*given) for row, *given in zip(rows, scores, candidates, strict=True)]
        logprobs, rankings = self._likelihood.measure(
            logits, tokens, self._config.logprobs, are_likeliest=self._is_greedy and scores is logits
        )
        yield from self._take(rows, Chosen(tokens, logprobs, rankings))

    def _take(self, rows: list[Row], chosen: Chosen) -> Iterator[Token]:
        for row, token, logprob, top in zip(rows, chosen.tokens, chosen.logprobs, chosen.rankings, strict=True):
            yield row.take(token, logprob, top)

    def _last_tokens(self) -> NDArray[np.int64]:
        for place, row in enumerate(self.rows):
            self._ids[place, 0] = row.last_token
        if self._pairs_rows and len(self.rows) % 2:
            self._add_companion()
        return self._ids[: self._cache.batch]

    def _add_companion(self) -> None:
        """Let an empty row go along in the last place, so that the number of rows is even.

        8-bit kernels compute two rows at a time, and a last odd one otherwise: without this a row's text would depend
        on how many others there are.
        """
        if self._cache.batch == len(self.rows):
            self._cache.add_row()
        self._cache.lengths[-1] = 0

    def _drop_companion(self) -> None:
        if self._cache.batch > len(self.rows):
            self._cache.drop_row(len(self.rows))

    def _drop_finished(self) -> None:
        for place in range(len(self.rows) - 1, -1, -1):
            if self.rows[place].finish_reason is not None:
                self._drop_companion()
                self._cache.drop_row(place)
                last = self.rows.pop()
                if place < len(self.rows):
                    self.rows[place] = last

    # Reading prompts

    def _read_prompt(self, row: Row, place: int) -> Logits | None:
        """Fill a place of the cache with a row's prompt; the logits of its last token, None when interrupted."""
        if self._prompt is not None and self._prompt[0] == row.prompt_index:
            sibling = next((other for other, found in enumerate(self.rows) if found.shares_prompt_with(row)), None)
            if sibling is not None:
                self._cache.copy_row(sibling, place, row.prompt_length)
                _, logits, row.prompt_readings = self._prompt
                return logits
        prompt = row.token_ids
        self._cache.ensure(max(self._cache.length, len(prompt)))
        with self._place(place) as cache:
            if not self._config.prompt_logprobs:
                found = self._reader.last_logits(cache, prompt)
            elif (read := self._reader.measure(cache, prompt, prompt[1:], self._config.logprobs)) is not None:
                row.prompt_readings, found = read
            else:
                found = None
        if found is not None and self._config.num_return_sequences > 1:
            self._prompt = row.prompt_index, found.copy(), row.prompt_readings
        return found

    def _place(self, place: int) -> AbstractContextManager[AnyCache]:
        """A place of the cache as a cache of one row."""
        return nullcontext(self._cache) if self._cache.batch == 1 else self._cache.row(place)

    # The context's end

    def _slide_full_rows(self) -> Iterator[Token]:
        for place, row in enumerate(self.rows):
            if self._cache.lengths[place] >= self._context_length:
                logits = self._slide(place, row)
                if logits is None:
                    row.end(self._interruption.reason() or "cancelled")
                else:
                    yield from self._choose([row], logits)
        self._drop_finished()

    def _slide(self, place: int, row: Row) -> Logits | None:
        """Read a row's shortened window anew; the logits of its newest token, None when interrupted."""
        window, kept = row.slide(self._config.context_keep, self._context_length)
        still_there = kept if self._reader.reads_in_chunks else 0  # what is kept stays as it is, at the same positions
        with self._place(place) as cache:
            cache.truncate(still_there)
            return self._reader.last_logits(cache, window[still_there:])
