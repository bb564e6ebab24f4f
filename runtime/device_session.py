"""ONNX Runtime's session on a device: what has to be held to there, in every run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .device_memory import DeviceRoom


class DeviceSession:
    """An `InferenceSession` whose runs fail with a clear error where the device's memory is full.

    DirectML allows one run of a session at a time ("DirectML Execution Provider" in ONNX Runtime's documentation), so
    that runs wait for each other there.
    """

    def __init__(self, session: Any, room: DeviceRoom, *, one_at_a_time: bool):
        self._session = session
        self._room = room
        self._turn: AbstractContextManager[Any] = threading.Lock() if one_at_a_time else nullcontext()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *arguments: Any, **keywords: Any) -> Any:
        """As `InferenceSession.run`."""
        return self._guarded(self._session.run, arguments, keywords)

    def run_with_ort_values(self, *arguments: Any, **keywords: Any) -> Any:
        """As `InferenceSession.run_with_ort_values`."""
        return self._guarded(self._session.run_with_ort_values, arguments, keywords)

    def run_with_iobinding(self, *arguments: Any, **keywords: Any) -> Any:
        """As `InferenceSession.run_with_iobinding`."""
        return self._guarded(self._session.run_with_iobinding, arguments, keywords)

    def _guarded(self, run: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        try:
            with self._turn:
                return run(*arguments, **keywords)
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            clearer = self._room.translated(error)
            if clearer is None:
                raise
            raise clearer from error
