"""Buffers: the memory of a cache whose past and present are one, here the computer's own; a device's is next door."""

from __future__ import annotations

import math
import mmap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .cache_layout import CacheLayout
from .engine import ort

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

Names = Sequence[tuple[str, str]]  # of past and present: key and value by turns, layer by layer


class Buffers(ABC):
    """Keys and values of so many rows: of each layer [2, rows, kv_heads, capacity, head_size].

    They know no lengths: which tokens of a row count is up to the cache.
    """

    def __init__(self, layout: CacheLayout, rows: int, capacity: int):
        self.layout = layout
        self.rows = rows
        self.capacity = capacity  # tokens of a row

    @abstractmethod
    def bind(self, binding: Any, names: Names, first: int, rows: int) -> list[Any]:
        """Bind some rows, beginning with `first`, as past and as present; what is returned must outlive the run."""

    @abstractmethod
    def copy_row(self, source: int, target: int, start: int, stop: int) -> None:
        """Copy a row's tokens from `start` to `stop` over those of another one, whose later tokens may be lost."""

    @abstractmethod
    def fill(self, source: Self, first: int, rows: int, kept: int) -> None:
        """Copy the first `kept` tokens of other buffers' rows, beginning with their `first`, into the first rows."""

    @abstractmethod
    def grown(self, capacity: int, rows: int, kept: int) -> Self:
        """Larger buffers with the first `kept` tokens of the first rows; these ones are of no use then.

        Raises:
            MemoryLimitError: the memory does not allow it; these ones are as they were.
        """

    @abstractmethod
    def close(self) -> None:
        """Let the memory go, as soon as nothing that was bound uses it."""


class HostBuffers(Buffers):
    """Buffers in the computer's memory, as numpy arrays."""

    def __init__(self, layout: CacheLayout, rows: int, capacity: int):
        super().__init__(layout, rows, capacity)
        self.arrays = [_allocate(self._shape(layer), layout.dtype) for layer in range(len(layout.layers))]

    def bind(self, binding: Any, names: Names, first: int, rows: int) -> list[Any]:
        """As `Buffers.bind`."""
        held = []
        parts = (part[first : first + rows] for array in self.arrays for part in array)
        for (past, present), part in zip(names, parts, strict=True):
            value = host_value(part, self.layout)
            binding.bind_ortvalue_input(past, value)
            binding.bind_ortvalue_output(present, value)
            held.append(value)
        return held

    def copy_row(self, source: int, target: int, start: int, stop: int) -> None:
        """As `Buffers.copy_row`."""
        for array in self.arrays:
            array[:, target, :, start:stop] = array[:, source, :, start:stop]

    def fill(self, source: Self, first: int, rows: int, kept: int) -> None:
        """As `Buffers.fill`."""
        for new, old in zip(self.arrays, source.arrays, strict=True):
            new[:, :rows, :, :kept] = old[:, first : first + rows, :, :kept]

    def grown(self, capacity: int, rows: int, kept: int) -> Self:
        """As `Buffers.grown`; layer by layer, so that at most one is there twice."""
        self.capacity = capacity
        for layer, old in enumerate(self.arrays):
            new = _allocate(self._shape(layer), old.dtype)
            new[:, :rows, :, :kept] = old[:, :rows, :, :kept]
            self.arrays[layer] = new
        return self

    def close(self) -> None:
        """As `Buffers.close`."""
        self.arrays = []

    def _shape(self, layer: int) -> tuple[int, ...]:
        heads, size = self.layout.layers[layer]
        return 2, self.rows, heads, self.capacity, size


def host_value(array: NDArray[Any], layout: CacheLayout) -> Any:
    """A part of a cache as an OrtValue over the same memory."""
    if layout.is_bfloat16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, layout.element_type)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array in pages of its own, which go back to the system when it does; the heap would keep them."""
    pages = mmap.mmap(-1, max(1, math.prod(shape) * dtype.itemsize))
    return np.frombuffer(pages, dtype, math.prod(shape)).reshape(shape)
