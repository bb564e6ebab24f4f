"""Reader: reads token ids into a cache, for what comes next (prefill) or for how likely each token was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cache import AnyCache
from .likelihood import Likelihood, TokenIds
from .logits import Logits
from .results import Ranking
from .session import Session
from .stopping import Interruption

PREFILL_CHUNK = 256  # tokens: enough rows for full speed, few enough to bound the memory of activations
_SCORED = 128  # tokens: the logits of so many positions are in memory at once, where the graph reads in chunks


@dataclass
class Readings:
    """Log-probabilities (natural) of tokens, and the likeliest tokens in their places where those were asked for."""

    logprobs: list[float] = field(default_factory=list)
    top: list[Ranking] = field(default_factory=list)


class Reader:
    """Reads with one session. Owns the memory that log-probabilities take: one thread uses it."""

    def __init__(self, session: Session, chunk: int | None, interruption: Interruption | None = None):
        """A reader that gives up between two chunks when it is interrupted.

        Args:
            session: of the graph.
            chunk: tokens to read at once; None: the graph reads any text in one piece only.
            interruption: of the call; None: it can't be interrupted.
        """
        self._session = session
        self._chunk = chunk
        self._interruption = interruption
        self._likelihood = Likelihood()

    @property
    def reads_in_chunks(self) -> bool:
        """Whether the graph reads several tokens behind others, too."""
        return self._chunk is not None

    def last_logits(self, cache: AnyCache, ids: TokenIds) -> Logits | None:
        """Read tokens behind those that a cache of one row holds.

        Returns:
            The last token's logits, float32 [1, vocabulary], until the next step of this cache; None: interrupted.
        """
        array = np.asarray(ids, np.int64)[None]
        chunk = self._chunk or array.shape[1]
        for start in range(0, array.shape[1], chunk):
            if self._is_interrupted():
                return None
            logits = self._session.step(array[:, start : start + chunk], cache)
        return last_position(logits)

    def measure(
        self, cache: AnyCache, ids: TokenIds, targets: TokenIds, top: int = 0
    ) -> tuple[Readings, Logits] | None:
        """Read tokens as `last_logits`, and tell how likely it was that `targets[i]` comes behind `ids[i]`.

        Args:
            cache: of one row.
            ids: what to read, one token or more.
            targets: at most as many; usually the same text one token further.
            top: how many of the likeliest tokens to tell for each of the targets.

        Returns:
            What was found, and the last token's logits; None: interrupted.
        """
        array = np.asarray(ids, np.int64)[None]
        readings = Readings()
        chunk = min(self._chunk, _SCORED) if self._chunk else array.shape[1]
        for start in range(0, array.shape[1], chunk):
            if self._is_interrupted():
                return None
            logits = self._session.step(array[:, start : start + chunk], cache, keep=0)[0]
            for first in range(0, len(logits), _SCORED):
                part = logits[first : first + _SCORED].astype(np.float32, copy=False)
                self._add(readings, part, targets[start + first : start + first + len(part)], top)
        return readings, last_position(logits[None])

    def _add(self, readings: Readings, logits: Logits, targets: TokenIds, top: int) -> None:
        logprobs, rankings = self._likelihood.measure(logits[: len(targets)], targets, top)
        readings.logprobs += logprobs
        if top:
            readings.top += rankings

    def _is_interrupted(self) -> bool:
        return self._interruption is not None and self._interruption.reason() is not None


def last_position(logits: NDArray[np.floating[Any]]) -> Logits:
    """[batch, kept, vocabulary] of any float type -> float32 [batch, vocabulary] of the last position."""
    return logits[:, -1].astype(np.float32, copy=False)
