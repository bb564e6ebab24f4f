"""Assistant: a smaller model that drafts tokens for a larger one to check (Leviathan et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .drafting import HitRates
from .errors import OptionError
from .likelihood import Likelihood
from .logits import Logits, Pipeline, Rows
from .reading import Reader
from .row import Row
from .scoring import common_length
from .session import Session
from .stopping import Interruption

_LEVELS = 5  # of the assistant's own confidence in a token
_LONGEST_PAUSE = 32  # passes
_MEMORY = 0.9  # what a pass counts for when the next one is known


class Assistant:
    """Drafts as the larger model would choose: by the same options, and when sampling with the same random numbers.

    So a draft that gives tokens the same probabilities proposes the same tokens, and one that gives them nearly the
    same ones nearly always does. How many tokens it drafts depends on how confident it is, and on how often the larger
    model agreed at such confidence. Where that has not been worth the cost lately it pauses, twice as long each time.
    """

    def __init__(
        self,
        session: Session,
        pipeline: Pipeline,
        interruption: Interruption,
        *,
        most: int,
        step_cost: float,
        checking_cost: float,
        context_length: int,
        limit: int,
        chunk: int,
    ):
        """Reserve an assistant's cache.

        Args:
            session: of the assistant's graph.
            pipeline: the logits processors of the call.
            interruption: of the call.
            most: candidates for one pass.
            step_cost: of one of the assistant's steps, in steps of the larger model.
            checking_cost: of each candidate, in steps of the larger model.
            context_length: of the assistant; where a text is longer, it drafts no more.
            limit: the most tokens of a text.
            chunk: tokens to read at once.

        Raises:
            MemoryLimitError: the assistant's memory limit does not allow it.
        """
        self._session = session
        self._pipeline = pipeline
        self._reader = Reader(session, chunk, interruption)
        self._likelihood = Likelihood()
        self._most = most
        self._step_cost = step_cost
        self._checking_cost = checking_cost
        self._context_length = context_length
        limit = min(limit, context_length)
        self._cache = session.new_cache(capacity=min(limit, 256), limit=limit)
        self.begin()

    def begin(self) -> None:
        """Forget the row before."""
        self._cache.truncate(0)
        self._held: list[int] = []  # drafted tokens at the cache's end
        self._rates = HitRates({level: (level + 0.5) / _LEVELS for level in range(_LEVELS)})
        self._pause, self._passes_to_wait = 1, 0
        self._tokens, self._time = 3.0, 2.0  # of passes with drafts, the last ones count most; some are assumed
        self._drafted_at, self._spent = 0, 0.0  # of the last such pass: the text's length before it, and its time

    def draft(self, row: Row, most: int) -> Sequence[int]:
        """As `Drafter.draft`."""
        ids = row.token_ids
        self._rates.learn(ids)
        room = min(self._most, most, self._context_length - len(ids))
        if room < 1 or self._waits(len(ids)):
            return ()
        logits = self._catch_up(ids.tolist())
        if logits is None:
            return ()
        drafted, levels = self._guess(row, room, logits)
        self._rates.expect(len(ids), list(zip(drafted, levels, strict=True)))
        time = 1 + self._step_cost * max(1, len(drafted))
        count = self._worth_checking(levels, time)
        self._drafted_at, self._spent = len(ids), time + self._checking_cost * count
        return drafted[:count]

    def close(self) -> None:
        """Free the cache. May be called twice."""
        self._cache.close()

    def _catch_up(self, ids: list[int]) -> Logits | None:
        """Let the cache hold the text; the last token's logits [1, vocabulary], None when interrupted."""
        start = self._cache.length - len(self._held)
        # The last token is read in any case, since its logits are wanted.
        known = min(start + common_length(self._held, ids[start:]), len(ids) - 1)
        self._cache.truncate(known)
        self._held = []
        logits = self._reader.last_logits(self._cache, ids[known:])
        if logits is None:
            self._cache.truncate(0)
        return logits

    def _waits(self, length: int) -> bool:
        """Whether it pauses at this pass, for a text of such length."""
        if self._spent:
            self._tokens = self._tokens * _MEMORY + length - self._drafted_at
            self._time = self._time * _MEMORY + self._spent
            self._spent = 0.0
            if self._tokens < self._time:
                self._passes_to_wait = self._pause
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            else:
                self._pause = 1
        if self._passes_to_wait == 0:
            return False
        self._passes_to_wait -= 1
        return True

    def _guess(self, row: Row, room: int, logits: Logits) -> tuple[list[int], list[int]]:
        """Tokens, while one more may make the pass better, and the levels of confidence in them."""
        length = len(row.token_ids)
        text = np.concatenate([row.token_ids, np.empty(room, np.int64)])
        drafted: list[int] = []
        levels: list[int] = []
        tokens = reached = 1.0
        cost = self._step_cost + self._checking_cost
        while (token := self._choose(row, text[: length + len(drafted)], logits)) is not None:
            text[length + len(drafted)] = token
            drafted.append(token)
            levels.append(self._level(logits, token))
            reached *= self._rates.rate(levels[-1])
            tokens += reached
            # The next one comes true as often as the text gets there, at most.
            if len(drafted) == room or reached / cost < tokens / (1 + cost * len(drafted)):
                break
            logits = self._session.step(np.array([[token]]), self._cache)[:, -1].astype(np.float32, copy=False)
            self._held.append(token)
        return drafted, levels

    def _worth_checking(self, levels: list[int], time: float) -> int:
        """How many of the drafted tokens bring most tokens for the time, `time` of which is spent already."""
        count, best = 0, 1 / time
        tokens = reached = 1.0
        for candidates, level in enumerate(levels, start=1):
            reached *= self._rates.rate(level)
            tokens += reached
            gain = tokens / (time + self._checking_cost * candidates)
            if gain > best:
                count, best = candidates, gain
        return count

    def _choose(self, row: Row, text: NDArray[np.int64], logits: Logits) -> int | None:
        """The token that the options choose behind a text; None where they forbid every one."""
        try:
            scores = self._pipeline(Rows([text], [row.prompt_length], [row.sampler.sequence]), logits)
        except OptionError:  # to complain is up to the larger model, if its text gets there
            return None
        return row.sampler.choose(scores[0], len(text) - row.prompt_length)

    def _level(self, logits: Logits, token: int) -> int:
        [logprob], _ = self._likelihood.measure(logits, [token], 0)
        return min(int(np.exp(logprob) * _LEVELS), _LEVELS - 1)
