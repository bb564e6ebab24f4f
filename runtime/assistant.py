"""Assistant: a smaller model that drafts tokens for a larger one to check (Leviathan et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .drafting import CHECKING_COST, WORTH_IT, HitRates
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


class Assistant:
    """Drafts as the larger model would choose: by the same options, and when sampling with the same random numbers.

    So a draft that gives tokens the same probabilities proposes the same tokens, and one that gives them nearly the
    same ones nearly always does. How many tokens it drafts depends on how confident it is, and on how often the larger
    model agreed at such confidence. Where that is not worth the cost it pauses, twice as long each time.
    """

    def __init__(
        self,
        session: Session,
        pipeline: Pipeline,
        interruption: Interruption,
        *,
        most: int,
        cost: float,
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
            cost: of one of the assistant's steps, in steps of the larger model.
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
        self._step_cost = cost
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

    def draft(self, row: Row, most: int) -> Sequence[int]:
        """As `Drafter.draft`."""
        ids = row.token_ids
        self._rates.learn(ids)
        room = min(self._most, most, self._context_length - len(ids))
        if self._passes_to_wait:
            self._passes_to_wait -= 1
            return ()
        if room < 1:
            return ()
        logits = self._catch_up(ids.tolist())
        if logits is None:
            return ()
        drafted, levels, count = self._guess(row, room, logits)
        self._rates.expect(len(ids), list(zip(drafted, levels, strict=True)))
        if count:
            self._pause = 1
        else:
            self._passes_to_wait = self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
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

    def _guess(self, row: Row, room: int, logits: Logits) -> tuple[list[int], list[int], int]:
        """Tokens while each makes the pass better, with the levels of confidence in them; and how many to check."""
        text = np.concatenate([row.token_ids, np.empty(room, np.int64)])
        length = len(row.token_ids)
        drafted: list[int] = []
        levels: list[int] = []
        count, best = 0, WORTH_IT
        tokens = reached = 1.0
        while True:
            token = self._choose(row, text[: length + len(drafted)], logits)
            if token is None:
                break
            text[length + len(drafted)] = token
            drafted.append(token)
            levels.append(self._level(logits, token))
            reached *= self._rates.rate(levels[-1])
            tokens += reached
            gain = tokens / (1 + (self._step_cost + CHECKING_COST) * len(drafted))
            if gain > best:
                count, best = len(drafted), gain
            if len(drafted) == room or tokens + reached < best * (
                1 + (self._step_cost + CHECKING_COST) * (len(drafted) + 1)
            ):
                break  # full, or even a certain token would not make it better
            logits = self._session.step(np.array([[token]]), self._cache)[:, -1].astype(np.float32, copy=False)
            self._held.append(token)
        return drafted, levels, count

    def _choose(self, row: Row, text: np.ndarray[tuple[int], np.dtype[np.int64]], logits: Logits) -> int | None:
        """The token that the options choose behind a text; None where they forbid every one."""
        try:
            scores = self._pipeline(Rows([text], [row.prompt_length], [row.sampler.sequence]), logits)
        except OptionError:  # to complain is up to the larger model, if its text gets there
            return None
        return row.sampler.choose(scores[0], len(text) - row.prompt_length)

    def _level(self, logits: Logits, token: int) -> int:
        [logprob], _ = self._likelihood.measure(logits, [token], 0)
        return min(int(np.exp(logprob) * _LEVELS), _LEVELS - 1)
