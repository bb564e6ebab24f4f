"""SeparateKVCache: the keys and values of a batch in arrays that every step gives anew, a token longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cache_base import Cache
from .cache_layout import CacheLayout
from .kinship import Kinship
from .memory import MemoryBudget


class SeparateKVCache(Cache):
    """A cache for graphs whose present is a new tensor: per layer key and value [batch, kv_heads, length, head_size].

    `values` holds what the session feeds and takes back, in the order of the graph's inputs.
    """

    shares_buffer = False

    def __init__(self, layout: CacheLayout, batch: int, limit: int, budget: MemoryBudget):
        super().__init__(layout, batch, limit, budget)
        self._parent: tuple[SeparateKVCache, int] | None = None
        self._kinship = Kinship(batch)
        self._has_twin = False  # whose values are the same arrays
        self.values: list[NDArray[Any]] = [
            np.zeros((batch, heads, 0, size), layout.dtype) for heads, size in layout.layers for _ in range(2)
        ]

    def ensure(self, length: int) -> None:
        """As `Cache.ensure`: reserve the bytes of a present of `length` tokens beside its past."""
        needed = self.layout.bytes_per_token() * self.batch * (2 * length)
        self._reserve(needed, f"a key/value cache of {length} tokens, twice")

    def advance(self, count: int, presents: Sequence[NDArray[Any]]) -> None:
        """Take a step's presents, `count` tokens longer, as the next pasts; a row hands them on to its batch."""
        self.lengths += count
        self.values = list(presents)
        self._has_twin = False
        if self._parent is not None:
            batch, index = self._parent
            batch._place(index, self.values, self.length)

    def _place(self, index: int, values: Sequence[NDArray[Any]], length: int) -> None:
        longest = max(length, self.values[0].shape[2])
        for position, value in enumerate(values):
            old = self.values[position]
            new = np.zeros((*old.shape[:2], longest, old.shape[3]), old.dtype)
            new[:, :, : old.shape[2]] = old
            new[index, :, :length] = value[0, :, :length]
            self.values[position] = new

    def clear(self) -> None:
        """As `Cache.clear`."""
        self._take([])

    def add_row(self) -> int:
        """As `Cache.add_row`."""
        self.values = [np.concatenate([value, np.zeros_like(value, shape=(1, *value.shape[1:]))])
                       for value in self.values]  # fmt: skip
        self.lengths = np.append(self.lengths, 0)
        self.batch += 1
        self._kinship = Kinship(self.batch)
        self._has_twin = False
        return self.batch - 1

    def drop_row(self, index: int) -> None:
        """As `Cache.drop_row`; what only that row was long enough for is cut off."""
        rows = list(range(self.batch))
        rows[index] = rows[-1]
        self._take(rows[:-1])

    def _take(self, rows: list[int]) -> None:
        self.batch = len(rows)
        self.lengths = self.lengths[rows]
        self.values = [value[rows, :, : self.length] for value in self.values]
        self._kinship = Kinship(self.batch)
        self._has_twin = False

    def copy_row(self, source: int, target: int, length: int) -> None:
        """As `Cache.copy_row`."""
        self._leave_twin()
        for value in self.values:
            value[target, :, :length] = value[source, :, :length]
        self.lengths[target] = length
        self._kinship.forget(target)

    def row(self, index: int) -> SeparateKVCache:
        """As `Cache.row`."""
        view = SeparateKVCache(self.layout, 1, self.limit, self._budget)
        view.lengths = self.lengths[index : index + 1]
        length = int(view.lengths[0])
        view.values = [np.ascontiguousarray(value[index : index + 1, :, :length]) for value in self.values]
        view._parent = (self, index)
        self._kinship.forget(index)
        return view

    def truncate(self, length: int) -> None:
        """As `Cache.truncate`."""
        np.minimum(self.lengths, length, out=self.lengths)
        self.values = [np.ascontiguousarray(value[:, :, : self.length]) for value in self.values]
        self._kinship.truncate(length)

    def reorder(self, parents: Sequence[int]) -> list[int]:
        """As `Cache.reorder`, with as few copies as `KVCache.reorder`."""
        rows, copies = self._kinship.adopt(parents, self.lengths)
        if copies:
            self._leave_twin()
        for copy in copies:
            tokens = slice(copy.start, self.lengths[copy.source])
            for value in self.values:
                value[copy.row, :, tokens] = value[copy.source, :, tokens]
            self.lengths[copy.row] = self.lengths[copy.source]
        return rows

    def _leave_twin(self) -> None:
        """Have arrays of its own, before it writes into them."""
        if self._has_twin:
            self.values = [value.copy() for value in self.values]
            self._has_twin = False

    def copy(self) -> SeparateKVCache:
        """As `Cache.copy` (steps never write into a past, so the arrays are shared)."""
        twin = SeparateKVCache(self.layout, self.batch, self.limit, self._budget)
        twin.ensure(self.length)
        twin.values = list(self.values)
        twin._has_twin = self._has_twin = True
        twin.lengths[:] = self.lengths
        return twin

    def close(self) -> None:
        """As `Cache.close`."""
        super().close()
        self.values = []
