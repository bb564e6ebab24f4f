"""Which shared libraries a library of ONNX Runtime needs, and which of them can't be found.

Loading the library itself would tell as well, with a page of complaints on stderr, and the first one missing only.
Source: the ELF-64 object file format (System V gABI, chapters 4 and 5): program headers and the dynamic section.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr
_ENTRY = struct.Struct("<qQ")  # Elf64_Dyn
_LOAD, _DYNAMIC = 1, 2  # PT_LOAD, PT_DYNAMIC
_NEEDED, _STRING_TABLE = 1, 5  # DT_NEEDED, DT_STRTAB
_ELF_64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"


def needed_libraries(path: Path) -> list[str]:
    """The names that a 64-bit ELF library asks the loader for; none where it is no such file."""
    try:
        with path.open("rb") as stream:
            header = stream.read(_HEADER.size)
            if not header.startswith(_ELF_64_LITTLE_ENDIAN):
                return []
            fields = _HEADER.unpack(header)
            stream.seek(fields[5])
            table = stream.read(fields[9] * fields[10])
            segments = [_PROGRAM_HEADER.unpack_from(table, index * fields[9]) for index in range(fields[10])]
            dynamic = next(segment for segment in segments if segment[0] == _DYNAMIC)
            stream.seek(dynamic[2])
            entries = list(_ENTRY.iter_unpack(stream.read(dynamic[5] // _ENTRY.size * _ENTRY.size)))
            strings = next(value for tag, value in entries if tag == _STRING_TABLE)
            start = next(
                strings - address + offset
                for kind, _, offset, address, _, size, _, _ in segments
                if kind == _LOAD and address <= strings < address + size
            )
            return [_name_at(stream, start + value) for tag, value in entries if tag == _NEEDED]
    except (OSError, StopIteration, struct.error):
        return []


def missing_libraries(names: Sequence[str], site_packages: Path) -> list[str]:
    """Those that neither the system's loader finds nor NVIDIA's wheels hold.

    Args:
        names: shared libraries.
        site_packages: where the wheels would be; ONNX Runtime is told to look there.
    """
    in_wheels = {path.name for path in _wheel_libraries(site_packages)}
    return [name for name in names if name not in in_wheels and not _is_loadable(name)]


def _wheel_libraries(site_packages: Path) -> Iterator[Path]:
    for pattern in ("*/lib/*.so*", "*/bin/*.dll", "*/bin/*/*.dll"):
        yield from (site_packages / "nvidia").glob(pattern)


def _is_loadable(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _name_at(stream: BinaryIO, offset: int) -> str:
    stream.seek(offset)
    return stream.read(256).split(b"\0", 1)[0].decode("ascii", "replace")
