"""What a reader must know of the machine and of the call to judge figures; nothing that names places on it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What decides the speed of matrix products, in the words of /proc/cpuinfo.
_FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "sve",
)


def describe() -> dict[str, Any]:
    """Processor, features, memory, system, Python, and how busy the machine was."""
    info = _read(Path("/proc/cpuinfo"))
    fields = dict(_pair(line) for line in info.splitlines() if ":" in line)
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "features": [name for name in _FEATURES if name in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def shown_command(arguments: Sequence[str]) -> str:
    """The call, with the last part only of every directory and file it names."""
    return " ".join(["python benchmarks/compare", *(_without_directories(each) for each in arguments)])


def _without_directories(argument: str) -> str:
    before, equals, after = argument.partition("=")
    value = after if equals else before
    short = Path(value).name or value if os.sep in value else value
    return f"{before}={short}" if equals else short


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
