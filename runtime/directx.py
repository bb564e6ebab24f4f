"""Graphics adapters as DXGI lists them, through its COM interfaces: the order is that of DirectML's `device_id`.

Source: dxgi.h of the Windows SDK (IDXGIFactory1, IDXGIAdapter1, DXGI_ADAPTER_DESC1). A COM object is a pointer to a
table of functions, so its methods are called by their place in that table, which is part of the binary interface.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

_FACTORY = UUID("770aae78-f26f-4dba-a829-253c83d1b387")  # IDXGIFactory1
_RELEASE, _ENUM_ADAPTERS, _GET_DESCRIPTION = 2, 12, 10  # IUnknown::Release, EnumAdapters1, GetDesc1
_SOFTWARE_FLAG = 2  # DXGI_ADAPTER_FLAG_SOFTWARE
_BASIC_RENDER_DRIVER = (0x1414, 0x8C)  # Microsoft's, which not every version of Windows flags as software
_MOST_ADAPTERS = 64


class _Description(ctypes.Structure):
    """DXGI_ADAPTER_DESC1."""

    _fields_ = (
        ("description", ctypes.c_uint16 * 128),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("subsystem", ctypes.c_uint32),
        ("revision", ctypes.c_uint32),
        ("dedicated_video_memory", ctypes.c_size_t),
        ("dedicated_system_memory", ctypes.c_size_t),
        ("shared_system_memory", ctypes.c_size_t),
        ("identifier", ctypes.c_uint32 * 2),
        ("flags", ctypes.c_uint32),
    )


@dataclass(frozen=True)
class Adapter:
    """A graphics adapter: its place in DXGI's list, its name and its own memory."""

    index: int
    name: str
    memory_bytes: int
    is_software: bool


def directx_adapters(dxgi: Any) -> tuple[Adapter, ...]:
    """The adapters that `dxgi.dll`, loaded, lists; none where it refuses."""
    identifier = (ctypes.c_uint8 * 16)(*_FACTORY.bytes_le)
    factory = ctypes.c_void_p()
    if dxgi.CreateDXGIFactory1(ctypes.byref(identifier), ctypes.byref(factory)) != 0 or not factory:
        return ()
    with _released(factory):
        return tuple(_adapters(factory))


def _adapters(factory: ctypes.c_void_p) -> Iterator[Adapter]:
    for index in range(_MOST_ADAPTERS):
        adapter = ctypes.c_void_p()
        if _call(factory, _ENUM_ADAPTERS, ctypes.c_uint32(index), ctypes.byref(adapter)) != 0:
            return  # DXGI_ERROR_NOT_FOUND: that was the last
        with _released(adapter):
            described = _Description()
            if _call(adapter, _GET_DESCRIPTION, ctypes.byref(described)) == 0:
                yield _read(index, described)


def _read(index: int, described: _Description) -> Adapter:
    name = bytes(described.description).decode("utf-16-le", "replace").split("\0", 1)[0]
    is_basic = (described.vendor, described.device) == _BASIC_RENDER_DRIVER
    return Adapter(index, name, described.dedicated_video_memory, is_basic or bool(described.flags & _SOFTWARE_FLAG))


@contextmanager
def _released(pointer: ctypes.c_void_p) -> Iterator[None]:
    try:
        yield
    finally:
        _call(pointer, _RELEASE)


def _call(pointer: ctypes.c_void_p, place: int, *arguments: Any) -> int:
    """Call a COM method; its status. 64-bit Windows has one calling convention, so CFUNCTYPE serves."""
    table = ctypes.cast(pointer, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))).contents
    method = ctypes.CFUNCTYPE(ctypes.c_int32)(table[place] or 0)
    return int(method(pointer, *arguments))
