"""Buffers on a device: in one stretch for all rows where addresses can be counted with, else each row in its own.

Copies stay on the device. Rows are copied whole, also the part that isn't needed: that costs less than a run for every
head, since the tokens of a row lie together in each head only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .buffers import Buffers, Names
from .cache_layout import CacheLayout
from .device_store import DeviceStore, Stretch

if TYPE_CHECKING:
    from typing import Self  # Python 3.11


class _OnDevice(Buffers):
    """What the two kinds have in common; `values` are their tensors."""

    values: list[Any]

    def __init__(self, store: DeviceStore, layout: CacheLayout, rows: int, capacity: int):
        """Allocate.

        Raises:
            MemoryLimitError: the device has no room.
        """
        super().__init__(layout, rows, capacity)
        self._store = store
        self.values = self._allocate()

    @abstractmethod
    def _allocate(self) -> list[Any]:
        """The tensors, with what is in them not defined."""

    def grown(self, capacity: int, rows: int, kept: int) -> Self:
        """As `Buffers.grown`."""
        larger = type(self)(self._store, self.layout, self.rows, capacity)
        if kept:
            larger.fill(self, 0, rows, kept)
        self.close()
        return larger

    def close(self) -> None:
        """As `Buffers.close`."""
        self.values = []


class DeviceBuffers(_OnDevice):
    """Per layer one tensor [2, rows, kv_heads, capacity, head_size], bound row by row by address."""

    def _allocate(self) -> list[Any]:
        return [
            self._store.allocate((2, self.rows, heads, self.capacity, size), self.layout.element_type, self.rows)
            for heads, size in self.layout.layers
        ]

    def bind(self, binding: Any, names: Names, first: int, rows: int) -> list[Any]:
        """As `Buffers.bind`."""
        store, element_type = self._store, self.layout.element_type
        stretches = self._rows(first)
        for (past, present), stretch, (heads, size) in zip(names, stretches, self._sizes(), strict=True):
            place = (store.device, store.index, element_type, [rows, heads, self.capacity, size], stretch.address)
            binding.bind_input(past, *place)
            binding.bind_output(present, *place)
        return list(self.values)

    def copy_row(self, source: int, target: int, start: int, stop: int) -> None:
        """As `Buffers.copy_row`."""
        self._store.copy_stretches(list(self._rows(source)), list(self._rows(target)))

    def fill(self, source: Self, first: int, rows: int, kept: int) -> None:
        """As `Buffers.fill`."""
        for row in range(rows):
            if source.capacity == self.capacity:
                self._store.copy_stretches(list(source._rows(first + row)), list(self._rows(row)))
                continue
            for head in range(max(heads for heads, _ in self.layout.layers)):
                self._store.copy_stretches(
                    list(source._heads(first + row, head, kept)), list(self._heads(row, head, kept))
                )

    def _rows(self, first: int) -> Iterator[Stretch]:
        """Where a row's keys and values are, whole."""
        for value, (heads, size) in zip(self.values, self.layout.layers, strict=True):
            count = heads * self.capacity * size
            for kind in range(2):
                yield Stretch(self._address(value, (kind * self.rows + first) * count), count)

    def _heads(self, row: int, head: int, tokens: int) -> Iterator[Stretch]:
        """Where the first tokens of one of a row's heads are; none in layers that have fewer heads."""
        for value, (heads, size) in zip(self.values, self.layout.layers, strict=True):
            for kind in range(2):
                place = min(head, heads - 1)
                before = ((kind * self.rows + row) * heads + place) * self.capacity * size
                yield Stretch(self._address(value, before), tokens * size if head < heads else 0)

    def _address(self, value: Any, elements: int) -> int:
        return int(value.data_ptr()) + elements * self.layout.dtype.itemsize

    def _sizes(self) -> Iterator[tuple[int, int]]:
        return (sizes for sizes in self.layout.layers for _ in range(2))


class RowBuffers(_OnDevice):
    """Per row, layer and kind one tensor [1, kv_heads, capacity, head_size]: rows are bound one at a time."""

    def _allocate(self) -> list[Any]:
        return [
            [
                self._store.allocate((1, heads, self.capacity, size), self.layout.element_type, self.rows)
                for heads, size in self.layout.layers
                for _ in range(2)
            ]
            for _ in range(self.rows)
        ]

    def bind(self, binding: Any, names: Names, first: int, rows: int) -> list[Any]:
        """As `Buffers.bind`, of one row."""
        if rows != 1:
            raise ValueError(f"{rows} rows to be bound together: here each lies for itself")
        for (past, present), value in zip(names, self.values[first], strict=True):
            binding.bind_ortvalue_input(past, value)
            binding.bind_ortvalue_output(present, value)
        return list(self.values[first])

    def copy_row(self, source: int, target: int, start: int, stop: int) -> None:
        """As `Buffers.copy_row`."""
        self._store.copy_tensors(self.values[source], self.values[target])

    def fill(self, source: Self, first: int, rows: int, kept: int) -> None:
        """As `Buffers.fill`; by way of the computer's memory where capacities differ."""
        for row in range(rows):
            if source.capacity == self.capacity:
                self._store.copy_tensors(source.values[first + row], self.values[row])
                continue
            with self._store.turn:
                for old, new in zip(source.values[first + row], self.values[row], strict=True):
                    array = np.zeros(new.shape(), self.layout.dtype)
                    array[:, :, :kept] = old.numpy()[:, :, :kept]
                    new.update_inplace(array)
