"""Stop strings, found across token borders: text that may become one is held back until it is certain."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Lets text through up to the first stop string, which is not let through itself."""

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
