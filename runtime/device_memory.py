"""A device's memory: what is free there, and what to tell when it is not enough."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .devices import cuda_driver
from .errors import MemoryLimitError
from .memory import format_bytes

# How ONNX Runtime, CUDA and Direct3D (E_OUTOFMEMORY, DXGI_ERROR_DEVICE_REMOVED is another story) say it.
_OUT_OF_MEMORY = re.compile(
    r"failed to allocate memory|smaller than requested bytes|out of memory|cudaMallocFromPoolAsync failed|8007000E"
    r"|CUBLAS_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)
_ASKED = re.compile(r"(?:requested buffer of size|requested bytes of|failed to allocate) *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of a device's memory; None where nobody tells."""

    free: int | None = None
    total: int | None = None


def device_memory(provider: str, device: int) -> DeviceMemory:
    """What is free on a device now, by all processes. CUDA tells; DirectML's devices don't.

    A context on the device is used, which ONNX Runtime has made there by the time that a session is open.
    """
    driver = cuda_driver() if provider == "cuda" else None
    return DeviceMemory() if driver is None else _cuda_memory(driver, device)


def _cuda_memory(driver: Any, index: int) -> DeviceMemory:
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(handle), index):
        return DeviceMemory()
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle):
        return DeviceMemory()
    try:
        if driver.cuCtxPushCurrent_v2(context):
            return DeviceMemory()
        status = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(handle)
    return DeviceMemory() if status else DeviceMemory(free.value, total.value)


@dataclass(frozen=True)
class DeviceRoom:
    """The room for caches on a session's device.

    Attributes:
        device: what it is called in messages: `cuda device 0 (NVIDIA L4)`.
        free: bytes that were free when the weights were there and no cache yet; None where nobody tells.
        bytes_per_token: what a token of one sequence takes in the cache.
        now: asks what is free now.
    """

    device: str
    free: int | None
    bytes_per_token: int
    now: Callable[[], DeviceMemory] = DeviceMemory

    def largest_context(self, rows: int = 1) -> int | None:
        """Tokens of a cache of so many rows that fill the device, without room for activations; None: not known."""
        return None if self.free is None else self.free // (self.bytes_per_token * rows)

    def exceeded(self, count: int | None, rows: int = 1) -> MemoryLimitError:
        """The error of an allocation of `count` bytes (None: nobody told) that failed."""
        free = self.now().free
        asked = "more" if count is None else format_bytes(count)
        parts = [f"{self.device} is out of memory: {asked} was asked for"]
        if free is not None:
            parts.append(f" and {format_bytes(free)} is free")
        largest = self.largest_context(rows)
        if largest is not None:
            shape = "" if rows == 1 else f" of {rows} rows"
            parts.append(
                f"; beside the weights there was room for {format_bytes(self.free or 0)}, so the largest context"
                f"{shape} that fits has {largest} tokens"
            )
        parts.append("; lower max_new_tokens or batch_size, shorten the prompt, or quantize the bundle")
        return MemoryLimitError("".join(parts))

    def translated(self, error: Exception) -> MemoryLimitError | None:
        """The error to raise instead of one of ONNX Runtime's; None where that is not about memory."""
        return self.exceeded(asked_bytes(error)) if is_out_of_memory(error) else None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of ONNX Runtime says that a device's memory is full."""
    return _OUT_OF_MEMORY.search(str(error)) is not None


def asked_bytes(error: Exception) -> int | None:
    """How many bytes could not be allocated, where the error tells."""
    found = _ASKED.search(str(error))
    return int(found.group(1)) if found else None


def weights_exceed(device: str, memory: DeviceMemory, weights: int, error: Exception) -> MemoryLimitError:
    """The error of weights that a device has no room for."""
    free = "" if memory.free is None else f", where {format_bytes(memory.free)} is free now"
    asked = asked_bytes(error)
    at = "" if asked is None else f" ({format_bytes(asked)} could not be allocated)"
    return MemoryLimitError(
        f"the weights, {format_bytes(weights)}, do not fit on {device}{free}{at}: no context fits; quantize the "
        "bundle, end what else runs there, or use another device"
    )
