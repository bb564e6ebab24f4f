"""Devices that a provider can compute on, asked of the drivers themselves: cheap, silent, and without ONNX Runtime.

An ONNX Runtime build that has a provider need not have a device for it: the CUDA build runs anywhere, falls back to
the CPU where there is no driver, and complains on stderr only. So devices are asked for first.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from .directx import directx_adapters

_DRIVERS = {"linux": ("libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"), "win32": ("nvcuda.dll",)}
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR in cuda.h
_NAME_BYTES = 256


@dataclass(frozen=True)
class Device:
    """One device, by the number that the provider option `device_id` takes."""

    index: int
    name: str
    memory_bytes: int | None = None  # its own memory, in all
    compute_capability: str | None = None  # of NVIDIA's, such as "9.0"


@dataclass(frozen=True)
class Devices:
    """What a provider can compute on here; when nothing, why."""

    found: tuple[Device, ...]
    reason: str = ""  # empty where something was found
    cuda_version: str | None = None  # the newest CUDA that the NVIDIA driver runs, such as "13.0"

    def __bool__(self) -> bool:
        return bool(self.found)


@cache
def devices_of(provider: str) -> Devices:
    """The devices of a provider (`cpu`, `cuda`, `dml`), asked for once in a process. Never raises and prints nothing.

    For `cuda` this starts the driver in this process (not a context on a device): a process forked later can't use it.

    >>> devices_of("cpu").found
    (Device(index=0, name='CPU', memory_bytes=None, compute_capability=None),)
    """
    if provider == "cuda":
        return _cuda_devices()
    if provider == "dml":
        return _directx_devices()
    return Devices((Device(0, "CPU"),))


@cache
def cuda_driver() -> Any | None:
    """The library of NVIDIA's driver, loaded but not started; None where there is none."""
    return _load_first(_DRIVERS.get(sys.platform, ()))


def _cuda_devices() -> Devices:
    """What the CUDA driver API counts, as CUDA_VISIBLE_DEVICES lets it."""
    driver = cuda_driver()
    if driver is None:
        return Devices((), "there is no NVIDIA driver here")
    if status := driver.cuInit(0):
        return Devices((), _refusal(driver, status))
    count, version = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    shown = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if status := driver.cuDeviceGetCount(ctypes.byref(count)):
        return Devices((), _refusal(driver, status), shown)
    found = tuple(_cuda_device(driver, index) for index in range(count.value))
    return Devices(found, "" if found else f"the NVIDIA driver counts no device{_hidden()}", shown)


def _cuda_device(driver: Any, index: int) -> Device:
    handle, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(_NAME_BYTES)
    major, minor = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(handle), index)
    driver.cuDeviceGetName(name, _NAME_BYTES, handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle)
    return Device(index, name.value.decode("utf-8", "replace"), memory.value, f"{major.value}.{minor.value}")


def _refusal(driver: Any, status: int) -> str:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(status, ctypes.byref(name))
    shown = name.value.decode("ascii", "replace") if name.value else f"error {status}"
    return f"the NVIDIA driver offers no device ({shown}){_hidden()}"


def _hidden() -> str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if hidden is None else f", with CUDA_VISIBLE_DEVICES={hidden!r} in the environment"


def _directx_devices() -> Devices:
    if sys.platform != "win32":
        return Devices((), "DirectML is part of Windows alone")
    library = _load_first(("dxgi.dll",))
    adapters = () if library is None else directx_adapters(library)
    found = tuple(
        Device(adapter.index, adapter.name, adapter.memory_bytes) for adapter in adapters if not adapter.is_software
    )
    return Devices(found, "" if found else "DirectX offers no graphics adapter but the software one")


def _load_first(names: tuple[str, ...]) -> Any | None:
    """The first of some shared libraries that can be loaded."""
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
