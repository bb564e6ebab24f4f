"""Physical cores on macOS."""

from __future__ import annotations

import ctypes
import ctypes.util

# Apple's chips: level 0 are the performance cores. Work is split evenly, so an efficiency core would hold up the rest.
_NAMES = (b"hw.perflevel0.physicalcpu", b"hw.physicalcpu")


def physical_cores() -> int:
    """Performance cores where there are two kinds, else all physical cores; 0 where the system doesn't tell."""
    library = ctypes.util.find_library("c")
    sysctl = getattr(ctypes.CDLL(library), "sysctlbyname", None) if library else None
    if sysctl is None:
        return 0
    for name in _NAMES:
        value, size = ctypes.c_int32(0), ctypes.c_size_t(4)
        if sysctl(name, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)) == 0 and value.value > 0:
            return value.value
    return 0
