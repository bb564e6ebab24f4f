"""TokenStream: the tokens of a call as they come."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Generator, Iterator
from types import TracebackType

from .request import Request
from .results import Completion, Token
from .row import Row
from .stopping import Cancellation


class TokenStream(Iterator[Token]):
    """The tokens of one call as they come, of all its rows; `Token.row` tells whose. Also a context manager.

    Leaving it, `close()` or losing it cancels the generation and frees its memory. `cancel()` may be called from any
    thread: the tokens being computed are still given, with the finish reason "cancelled".
    """

    def __init__(
        self, tokens: Generator[Token, None, None], rows: list[Row], request: Request, cancellation: Cancellation
    ):
        self._tokens = tokens
        self._rows = rows
        self._cancellation = cancellation
        self._lock = threading.RLock()  # a generator must not be closed by one thread while another one runs it
        self.seed = request.seed  # repeats a sampled text; None when greedy
        self.prompt_tokens = sum(len(ids) for ids in request.prompts)

    def __next__(self) -> Token:
        with self._lock:
            return next(self._tokens)

    def cancel(self) -> None:
        """End the generation after the step that is being computed; may be called from any thread, and twice."""
        self._cancellation.cancel()

    def close(self) -> None:
        """Cancel: no more tokens come, and the cache's memory is free. May be called twice, and from any thread."""
        self._cancellation.cancel()
        with self._lock:
            if inspect.getgeneratorstate(self._tokens) == inspect.GEN_RUNNING:
                # A signal handler calls, in the thread that computes: the generation ends with this step.
                return
            self._tokens.close()
            for row in self._rows:
                row.end("cancelled")

    def completions(self) -> list[Completion]:
        """What the stream has come to, prompt by prompt. Rows that have not ended count as cancelled."""
        return [row.completion(self.seed) for row in self._rows]

    def completions_of(self, prompt_index: int) -> list[Completion]:
        """As `completions`, of one prompt."""
        return [row.completion(self.seed) for row in self._rows if row.prompt_index == prompt_index]

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
