"""MemoryBudget: what may still be allocated under a stated limit."""

from __future__ import annotations

import re
import threading

from .errors import MemoryLimitError, OptionError

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
}


def parse_bytes(text: str | int) -> int:
    """Bytes from a number or from text such as `500MB` or `2GiB`.

    Raises:
        OptionError: no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    if not match or match.group(2).upper() not in _UNITS:
        raise OptionError(f"memory limit {text!r} is no size: expected bytes, or a number with MB, GB, MiB or GiB")
    return int(float(match.group(1)) * _UNITS[match.group(2).upper()])


def format_bytes(count: int) -> str:
    """Bytes for people: `151.2 MB`."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


class MemoryBudget:
    """Counts bytes reserved against a limit (None: no limit). Shared by all threads of a model."""

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self.used = 0  # bytes
        self._lock = threading.Lock()

    @property
    def available(self) -> int | None:
        """Bytes still free, None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.used)

    def reserve(self, count: int, purpose: str) -> None:
        """Take bytes before they are allocated.

        Raises:
            MemoryLimitError: they are not free; nothing was taken.
        """
        with self._lock:
            if self.limit is not None and self.used + count > self.limit:
                raise MemoryLimitError(
                    f"{purpose} needs {format_bytes(count)} with {format_bytes(self.used)} in use: over the limit of "
                    f"{format_bytes(self.limit)}; raise memory_limit or ask for less"
                )
            self.used += count

    def release(self, count: int) -> None:
        """Give bytes back."""
        with self._lock:
            self.used -= count
