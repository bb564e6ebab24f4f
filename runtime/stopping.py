"""What ends a generation from outside the model: stop strings, a time limit, a cancellation from any thread."""

from __future__ import annotations

import time
from collections.abc import Sequence


class Cancellation:
    """Ends generations from any thread, at any moment: they stop after the step that is being computed.

    One may be given to several calls, before or while they run.
    """

    def __init__(self) -> None:
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody has cancelled."""
        return self._is_cancelled

    def cancel(self) -> None:
        """End what runs with this; may be called twice."""
        self._is_cancelled = True


class Interruption:
    """Tells whether one call has to end now, whatever its rows would still say."""

    def __init__(self, cancellation: Cancellation, max_time: float | None = None):
        """Begin to count the seconds of `max_time`."""
        self._cancellation = cancellation
        self._end = None if max_time is None else time.monotonic() + max_time

    def reason(self) -> str | None:
        """The finish reason, "cancelled" or "time", or None to go on."""
        if self._cancellation.is_cancelled:
            return "cancelled"
        if self._end is not None and time.monotonic() >= self._end:
            return "time"
        return None


class StopMatcher:
    """Lets text through up to the first stop string, which is not let through itself.

    Stop strings are found across token borders: text that may become one is held back until it is certain.
    """

    def __init__(self, stop_strings: Sequence[str]):
        self._stops = tuple(stop_strings)
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """Take more text; give what is certain now, and whether a stop string ended it.

        >>> matcher = StopMatcher(["END"])
        >>> matcher.push("the E"), matcher.push("ND of it")
        (('the ', False), ('', True))
        """
        text = self._held + piece
        found = [position for stop in self._stops if (position := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def flush(self) -> str:
        """Give what was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop` (but not all of it)."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
