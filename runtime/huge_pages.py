"""Packed weights in huge pages, where Linux gives them only to memory that asks for them.

Every token reads all weights, and addresses of 4 KiB pages do not fit into a processor's tables of them: with pages of
2 MiB an int8 model of 135 million parameters decoded 3 to 8 % faster. ONNX Runtime has no setting for it, so what its
session allocated is found in the process's map and advised afterwards. The kernel's own thread then collects the pages
within a minute or two, beside the work: nothing waits for it, which a collection at once (MADV_COLLAPSE) would double
the time of loading for.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

_SETTINGS = Path("sys/kernel/mm/transparent_hugepage")
_MADV_HUGEPAGE = 14  # linux/mman.h, the same on every architecture that ONNX Runtime has builds for
_RESIDENT_SHARE = 0.9  # memory with more holes would grow where they are filled
_MAPS = Path("proc/self/maps")

Range = tuple[int, int]  # first address, and the one behind the last


@contextmanager
def huge_pages_for_new_memory(root: Path = Path("/")) -> Iterator[None]:
    """Advise huge pages for the memory that is allocated inside; on other systems and settings nothing happens.

    Args:
        root: where `/proc` and `/sys` lie.
    """
    page = huge_page_bytes(root)
    before = [] if page is None else list(_mappings(_text(root / _MAPS)))
    yield
    if page is not None:
        for start, end in new_ranges(_text(root / _MAPS), before, page):
            if resident_share(start, end) >= _RESIDENT_SHARE:
                _system_call("madvise", start, end - start, ctypes.c_int(_MADV_HUGEPAGE))


def huge_page_bytes(root: Path = Path("/")) -> int | None:
    """The size of huge pages, where the system gives them to memory that asks, and only to that."""
    if not sys.platform.startswith("linux") or "[madvise]" not in _text(root / _SETTINGS / "enabled"):
        return None
    size = _text(root / _SETTINGS / "hpage_pmd_size").strip()
    return int(size) if size.isdecimal() and int(size) else None


def new_ranges(maps: str, before: list[Range], page: int) -> list[Range]:
    """Memory of this process alone that was not mapped before, cut to whole huge pages.

    Args:
        maps: `/proc/PID/maps`, see proc_pid_maps(5).
        before: what was mapped already.
        page: bytes of a huge page.
    """
    new = (part for start, end in _mappings(maps) for part in _without(start, end, before))
    whole = ((-(-start // page) * page, end // page * page) for start, end in new)
    return [(start, end) for start, end in whole if start < end]


def resident_share(start: int, end: int) -> float:
    """How much of a range of addresses, which begins with a page, is in memory; 0 where the system doesn't tell."""
    pages = -(-(end - start) // mmap.PAGESIZE)
    states = np.zeros(pages, np.uint8)  # their lowest bits tell, see mincore(2)
    refused = _system_call("mincore", start, end - start, ctypes.c_void_p(states.ctypes.data))
    return 0.0 if refused else float((states & 1).mean())


def _mappings(maps: str) -> Iterator[Range]:
    """Private writable memory that is no file's."""
    for found in re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0 *(?:\[heap\])?$", maps, re.MULTILINE):
        yield int(found[1], 16), int(found[2], 16)


def _without(start: int, end: int, taken: list[Range]) -> Iterator[Range]:
    """What is left of a range where others are taken out; neighbouring mappings may have become one."""
    for first, last in sorted(taken):
        if first >= end:
            break
        if last > start:
            if start < first:
                yield start, first
            start = last
    if start < end:
        yield start, end


def _system_call(name: str, address: int, size: int, last: ctypes.c_int | ctypes.c_void_p) -> int:
    """Call one of the C library's functions on memory; what it refuses stays as it was."""
    return int(getattr(ctypes.CDLL(None), name)(ctypes.c_void_p(address), ctypes.c_size_t(size), last))


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""
