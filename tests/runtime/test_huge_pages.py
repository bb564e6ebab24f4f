"""Huge pages: whose memory asks for them, from planted maps; and that a loaded model's weights get them."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.huge_pages import huge_page_bytes, new_ranges, resident_share

MIB = 1 << 20
PAGE = 2 * MIB
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="huge pages are asked for on Linux alone")


def mapping(start: int, end: int, *, rights: str = "rw-p", inode: int = 0, name: str = "") -> str:
    """One line of /proc/PID/maps, addresses in MiB."""
    line = f"{start * MIB:08x}-{end * MIB:08x} {rights} 00000000 00:00 {inode} "
    return f"{line:<73}{name}\n" if name else line + "\n"


def ranges(maps: str, before: list[tuple[int, int]] | None = None) -> list[tuple[int, int]]:
    """In MiB, as the tests give them."""
    taken = [(start * MIB, end * MIB) for start, end in before or []]
    return [(start // MIB, end // MIB) for start, end in new_ranges(maps, taken, PAGE)]


def test_new_memory_is_taken_in_whole_huge_pages() -> None:
    assert ranges(mapping(101, 120)) == [(102, 120)]
    assert ranges(mapping(100, 107, name="[heap]")) == [(100, 106)]
    assert ranges(mapping(101, 103)) == []  # no whole one in it


@pytest.mark.parametrize(
    "other", [{"rights": "r--p"}, {"rights": "rw-s"}, {"inode": 77, "name": "/usr/lib/libx.so"}, {"name": "[stack]"}]
)
def test_memory_of_files_and_of_others_is_not_taken(other: dict[str, Any]) -> None:
    assert ranges(mapping(100, 200, **other) + mapping(300, 302)) == [(300, 302)]


def test_what_was_there_before_is_not_taken_though_it_grew_into_one_mapping() -> None:
    maps = mapping(100, 200) + mapping(300, 310) + mapping(400, 410)

    assert ranges(maps, [(150, 160), (290, 320), (100, 121)]) == [(122, 150), (160, 200), (400, 410)]


@linux
def test_memory_that_was_written_is_resident_and_other_memory_is_not() -> None:
    memory = mmap.mmap(-1, 8 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = np.frombuffer(memory, np.uint8).ctypes.data
    memory.write(bytes([1]) * (2 * MIB))

    assert resident_share(address, address + 2 * MIB) == 1.0
    assert resident_share(address, address + 8 * MIB) == 0.25
    assert resident_share(address + 4 * MIB, address + 8 * MIB) == 0.0
    assert resident_share(1, 2) == 0.0  # no page begins there


@linux
@pytest.mark.parametrize(
    ("enabled", "expected"),
    [
        ("always [madvise] never", PAGE),
        ("[always] madvise never", None),
        ("always madvise [never]", None),
        (None, None),
    ],
)
def test_only_where_the_system_waits_to_be_asked(tmp_path: Path, enabled: str | None, expected: int | None) -> None:
    settings = tmp_path / "sys/kernel/mm/transparent_hugepage"
    settings.mkdir(parents=True)
    (settings / "hpage_pmd_size").write_text(f"{PAGE}\n", encoding="utf-8")
    if enabled is not None:
        (settings / "enabled").write_text(enabled + "\n", encoding="utf-8")

    assert huge_page_bytes(tmp_path) == expected


LOADED = """
import ctypes, json, re, sys
import numpy as np
import onnxgpt
from onnxgpt.runtime.engine import ort  # imported before anything is counted

def kibibytes(name):
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith(name + ":"))

def advised():
    with open("/proc/self/smaps") as smaps:
        parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", smaps.read(), flags=re.M)[1:]
    return [[int(number, 16) for number in part.split()[0].split("-")] for part in parts
            if " hg" in part[part.index("VmFlags"):]]

model = onnxgpt.load(sys.argv[1], threads=1)
ids = list(range(100, 160))
before = model.logits(ids)
small, resident = kibibytes("AnonHugePages"), kibibytes("Rss")
madvise = ctypes.CDLL(None).madvise
madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
statuses = [madvise(start, end - start, 25) for start, end in advised()]  # MADV_COLLAPSE: at once
print(json.dumps({
    "advised": sum(end - start for start, end in advised()),
    "statuses": statuses,
    "weights": model.bundle.weight_bytes,
    "huge": [small, kibibytes("AnonHugePages")],
    "resident": [resident, kibibytes("Rss")],
    "same": bool(np.array_equal(before, model.logits(ids))),
}))
"""


@pytest.mark.skipif(huge_page_bytes() is None, reason="no huge pages for memory that asks here")
def test_a_loaded_model_asks_gets_them_and_computes_the_same(full_bundle: Bundle) -> None:
    command = [sys.executable, "-c", LOADED, str(full_bundle.directory)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    assert found["advised"] > 0.25 * found["weights"]  # small allocations lie scattered
    assert found["same"]
    if any(found["statuses"]):
        pytest.skip("the kernel collects none at once here (MADV_COLLAPSE came with Linux 6.1)")
    assert (found["huge"][1] - found["huge"][0]) * 1024 > 0.5 * found["advised"]
    # A tenth of what asked may be holes that are filled now, and 2 MiB are for the measuring itself.
    assert (found["resident"][1] - found["resident"][0]) * 1024 <= 0.1 * found["advised"] + PAGE
