"""Models that read a text and tell their logits: what quality is measured between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..runtime.bundle import Bundle
from ..runtime.errors import BundleError
from ..runtime.session import Session
from ..runtime.settings import DEFAULT_SETTINGS, SessionSettings
from .residuals import residual_session
from .text_files import TokenIds

Logits = NDArray[np.float32]  # [rows, vocabulary]

ROWS = 128  # positions whose logits are in memory at once


class Reader(Protocol):
    """A model that tells its logits; what a candidate is judged by."""

    name: str
    context_length: int

    def logits(self, windows: Sequence[TokenIds]) -> Iterator[Iterator[Logits]]:
        """Logits of every position of each window, `ROWS` positions at a time.

        A window's logits must be read to their end before the next window's; each array is valid until the next.
        """
        ...

    def residuals(self, windows: Sequence[TokenIds]) -> list[NDArray[np.float32]]:
        """Of each block, the residual stream that leaves it at every position of every window, [positions, hidden].

        Empty where the model does not tell it.
        """
        ...

    def close(self) -> None:
        """Free what was loaded; it is loaded again when needed."""
        ...


class WritingReader(Reader, Protocol):
    """A model that also writes: a candidate."""

    def continue_greedily(self, prompt: TokenIds, count: int) -> list[int]:
        """The next `count` tokens, each the most probable one; an end-of-text token does not end them."""
        ...


class BundleReader:
    """A bundle, read through the session that users run."""

    def __init__(self, bundle: Bundle, settings: SessionSettings = DEFAULT_SETTINGS):
        self.bundle = bundle
        self.name = name_of(bundle)
        self.context_length = bundle.manifest.context_length
        self._settings = settings
        self._session: Session | None = None

    def logits(self, windows: Sequence[TokenIds]) -> Iterator[Iterator[Logits]]:
        """See `Reader`. A window is prefilled in chunks of `ROWS` tokens where the graph allows."""
        for ids in windows:
            yield self._window_logits(ids)

    def continue_greedily(self, prompt: TokenIds, count: int) -> list[int]:
        """See `WritingReader`. Token by token, as users do."""
        session = self._open()
        tokens: list[int] = []
        with closing(session.new_cache(capacity=len(prompt) + count, limit=len(prompt) + count)) as cache:
            ids = prompt[None]
            for _ in range(count):
                tokens.append(int(session.step(ids, cache)[0, -1].argmax()))
                ids = np.array([tokens[-1:]], np.int64)
        return tokens

    def residuals(self, windows: Sequence[TokenIds]) -> list[NDArray[np.float32]]:
        """See `Reader`. Loads the graph anew, with these values as outputs; of graphs of others they are not known."""
        if self.bundle.manifest.graph.foreign:
            return []
        session, names = residual_session(self.bundle.graph_path, self._settings, self.bundle.manifest.graph)
        if not names:
            return []
        captured: list[dict[str, NDArray[Any]]] = [session.capture(ids[None], names) for ids in windows]
        return [np.concatenate([window[name][0] for window in captured]).astype(np.float32) for name in names]

    def close(self) -> None:
        """See `Reader`."""
        self._session = None

    def _window_logits(self, ids: TokenIds) -> Iterator[Logits]:
        chunk = ROWS if self.bundle.manifest.graph.chunked_prefill else len(ids)
        session = self._open()
        with closing(session.new_cache(capacity=len(ids), limit=len(ids))) as cache:
            for start in range(0, len(ids), chunk):
                logits = session.step(ids[None, start : start + chunk], cache, keep=0)[0]
                for row in range(0, len(logits), ROWS):
                    yield logits[row : row + ROWS].astype(np.float32, copy=False)

    def _open(self) -> Session:
        if self._session is None:
            self._session = Session.open_bundle(self.bundle, self._settings)
        return self._session


def name_of(bundle: Bundle) -> str:
    """A bundle's name and its precision: its recipe's name, or its type."""
    manifest = bundle.manifest
    precision = (manifest.quantization or {}).get("name", manifest.graph.dtype)
    return f"{manifest.name} ({precision})"


def check_finite(name: str, logits: Logits) -> None:
    """Raise BundleError when a model's logits hold NaN or infinity, since no figure would mean anything."""
    if not np.isfinite(logits).all():
        raise BundleError(f"{name} gives logits that are not finite: its weights are damaged; make it again")
