"""Physical cores on Windows."""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Iterator

_RELATION_PROCESSOR_CORE = 0
# SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX: the kind of record and its bytes; a PROCESSOR_RELATIONSHIP follows: flags,
# efficiency class, 20 bytes reserved and the count of its GROUP_AFFINITY, whose first member is a mask of pointer size.
_HEADER = struct.Struct("<II")
_GROUP_COUNT = struct.Struct("<BB20xH")
_GROUP_MASK = struct.Struct("<Q8x" if ctypes.sizeof(ctypes.c_void_p) == 8 else "<I8x")


def physical_cores() -> int:
    """Physical cores that the process's affinity mask reaches; 0 where the system doesn't tell."""
    records, mask = _core_records(), _affinity_mask()
    return sum(1 for masks in core_masks(records) if mask == 0 or any(mask & each for each in masks))


def core_masks(records: bytes) -> Iterator[tuple[int, ...]]:
    """For each physical core, the masks of its logical processors, one for each processor group that it is in.

    Args:
        records: what GetLogicalProcessorInformationEx(RelationProcessorCore) writes.
    """
    offset = 0
    while offset + _HEADER.size <= len(records):
        kind, size = _HEADER.unpack_from(records, offset)
        if size < _HEADER.size:
            return
        if kind == _RELATION_PROCESSOR_CORE:
            start = offset + _HEADER.size
            _, _, groups = _GROUP_COUNT.unpack_from(records, start)
            first = start + _GROUP_COUNT.size
            yield tuple(
                _GROUP_MASK.unpack_from(records, first + index * _GROUP_MASK.size)[0] for index in range(groups)
            )
        offset += size


def _core_records() -> bytes:
    """The system's records of its cores; empty where it gives none."""
    if sys.platform != "win32":
        return b""
    ask = ctypes.WinDLL("kernel32").GetLogicalProcessorInformationEx
    size = ctypes.c_ulong(0)
    ask(_RELATION_PROCESSOR_CORE, None, ctypes.byref(size))  # tells how many bytes it needs
    buffer = ctypes.create_string_buffer(size.value)
    return buffer.raw[: size.value] if ask(_RELATION_PROCESSOR_CORE, buffer, ctypes.byref(size)) else b""


def _affinity_mask() -> int:
    """Logical processors that the process may use, a bit each; 0 where it has several groups of them, and so all."""
    if sys.platform != "win32":
        return 0
    kernel = ctypes.WinDLL("kernel32")
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.GetProcessAffinityMask.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    own, machine = ctypes.c_size_t(0), ctypes.c_size_t(0)
    known = kernel.GetProcessAffinityMask(kernel.GetCurrentProcess(), ctypes.byref(own), ctypes.byref(machine))
    return own.value if known else 0
