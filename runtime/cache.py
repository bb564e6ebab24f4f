"""KVCache: the keys and values of one sequence or batch so far, in buffers that grow under a memory budget.

Decided by the graph: `KVCache` is for graphs whose past and present may be one buffer: a step writes
its keys and values in place and copies nothing. `SeparateKVCache` is for graphs that give a longer present for a
past: the present of one step is the past of the next. `RowsKVCache` is for such graphs that others exported, whose
rows are computed one by one.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cache_rows import RowsKVCache
from .kinship import Kinship
from .memory import MemoryBudget

UNLIMITED = 1 << 31  # tokens
_GRANULE = 64  # tokens; capacities are multiples of it


@dataclass(frozen=True)
class CacheLayout:
    """Shapes of a cache: per layer (kv_heads, head_size), and the element type.

    With int8, the graph multiplies by scales of its own; with uint8 two values of 4 bits share an element, and
    `head_size` counts elements.
    """

    layers: tuple[tuple[int, int], ...]
    dtype: np.dtype[Any]

    def bytes_per_token(self) -> int:
        """Bytes that one token of one sequence takes, over all layers."""
        return sum(2 * heads * size for heads, size in self.layers) * self.dtype.itemsize


class KVCache:
    """A cache whose buffers past and present share: per layer [2, batch, kv_heads, capacity, head_size].

    `lengths` int64 [batch] are the tokens that each row holds; what lies behind them is not defined. The rows in use
    are the first ones of those that were allocated: all of them, until `clear` or `drop_row` makes it fewer.
    """

    shares_buffer = True

    def __init__(self, layout: CacheLayout, batch: int, capacity: int, limit: int, budget: MemoryBudget):
        """Allocate room for `capacity` tokens per row; it grows to at most `limit`.

        The budget is asked for the whole `limit` at once, so that a generation that begins also ends.

        Raises:
            MemoryLimitError: the budget does not allow it.
        """
        self.layout = layout
        self.batch = batch  # rows in use
        self.limit = limit
        self.lengths: NDArray[np.int64] = np.zeros(batch, np.int64)
        self.version = 0  # changes with the buffers, so that whoever bound them knows
        self.lane: Any = None  # what the session keeps between steps of this cache
        self._budget = budget
        self._reserved = 0
        self._owned = True
        self._kinship = Kinship(batch)
        self.capacity = 0
        self._all_lengths = self.lengths  # of all allocated rows
        self._storage: list[NDArray[Any]] = [
            np.empty((2, batch, heads, 0, size), layout.dtype) for heads, size in layout.layers
        ]
        self.buffers = self._storage  # of the rows in use
        self._resize(_round_up(max(capacity, 1), limit))

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return int(self.lengths.max(initial=0))

    def ensure(self, length: int) -> None:
        """Make room for rows of `length` tokens: by half again at least, so that growing costs little per token.

        Raises:
            MemoryLimitError: the budget does not allow it; the cache is as it was.
            ValueError: this is a view of a row, or `length` is over the limit.
        """
        if length <= self.capacity:
            return
        if not self._owned or length > self.limit:
            raise ValueError(f"a cache of capacity {self.capacity} (limit {self.limit}) can't hold {length} tokens")
        self._resize(_round_up(max(length, self.capacity + self.capacity // 2), self.limit))

    def _resize(self, capacity: int) -> None:
        promised = capacity if self.limit >= UNLIMITED else self.limit
        needed = self.layout.bytes_per_token() * len(self._all_lengths) * promised
        self._budget.reserve(needed - self._reserved, f"a key/value cache of {promised} tokens")
        self._reserved = needed
        kept = self.length
        for index, old in enumerate(self._storage):
            two, rows, heads, _, size = old.shape
            new = _allocate((two, rows, heads, capacity, size), old.dtype)
            new[:, : self.batch, :, :kept] = old[:, : self.batch, :, :kept]
            self._storage[index] = new
        self.capacity = capacity
        self._use(self.batch)

    def _use(self, batch: int) -> None:
        self.batch = batch
        self.lengths = self._all_lengths[:batch]
        self.buffers = [buffer[:, :batch] for buffer in self._storage]
        self.version += 1
        self.lane = None

    def clear(self) -> None:
        """Leave no row in use, to `add_row` them one by one."""
        self._use(0)
        self._kinship = Kinship(0)

    def add_row(self) -> int:
        """Take an allocated row into use behind the others, empty; its index."""
        self._use(self.batch + 1)
        self.lengths[-1] = 0
        self._kinship = Kinship(self.batch)
        return self.batch - 1

    def drop_row(self, index: int) -> None:
        """Take a row out of use. The last row takes its place; nothing else is copied."""
        last = self.batch - 1
        if index != last:
            self.copy_row(last, index, int(self.lengths[last]))
        self._use(last)
        self._kinship = Kinship(last)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Make a row hold the first `length` tokens of another one, and nothing else."""
        for buffer in self.buffers:
            buffer[:, target, :, :length] = buffer[:, source, :, :length]
        self.lengths[target] = length
        self._kinship.forget(target)

    def row(self, index: int) -> KVCache:
        """A view of one row as a batch of 1, over the same memory; it can't grow."""
        view = object.__new__(KVCache)
        view.layout, view.batch, view.limit = self.layout, 1, self.capacity
        view.lengths = self.lengths[index : index + 1]
        view.version, view.lane = 0, None
        view._budget, view._reserved, view._owned = self._budget, 0, False
        view._kinship = Kinship(1)
        self._kinship.forget(index)
        view.capacity = self.capacity
        view._all_lengths = view.lengths
        view.buffers = view._storage = [buffer[:, index : index + 1] for buffer in self.buffers]
        return view

    def advance(self, count: int) -> None:
        """Count `count` tokens per row that a step has written."""
        self.lengths += count

    def truncate(self, length: int) -> None:
        """Forget the tokens of every row from position `length` on."""
        np.minimum(self.lengths, length, out=self.lengths)
        self._kinship.truncate(length)

    def reorder(self, parents: Sequence[int]) -> list[int]:
        """Give each of the `parents` (rows) a child with its tokens, as a beam search does after every step.

        Children lie where they cost least: a parent's first one in its row, without a copy; for the others only the
        tokens are copied that their row does not have in common with the parent.

        Args:
            parents: [batch]; a row may be named several times, or never: then its tokens are lost.

        Returns:
            Of each child its row.
        """
        rows, copies = self._kinship.adopt(parents, self.lengths)
        for copy in copies:
            tokens = slice(copy.start, self.lengths[copy.source])
            for buffer in self.buffers:
                buffer[:, copy.row, :, tokens] = buffer[:, copy.source, :, tokens]
            self.lengths[copy.row] = self.lengths[copy.source]
        return rows

    def copy(self) -> KVCache:
        """An independent cache with the same content.

        Raises:
            MemoryLimitError: the budget does not allow it.
        """
        twin = KVCache(self.layout, self.batch, self.capacity, self.limit, self._budget)
        kept = self.length
        for new, old in zip(twin.buffers, self.buffers, strict=True):
            new[:, :, :, :kept] = old[:, :, :, :kept]
        twin.lengths[:] = self.lengths
        return twin

    def close(self) -> None:
        """Free the buffers and give their bytes back to the budget. May be called twice."""
        self._budget.release(self._reserved)
        self._reserved = 0
        self.capacity = 0
        self.buffers = self._storage = []
        self.lane = None

    def __enter__(self) -> KVCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SeparateKVCache:
    """A cache for graphs whose present is a new tensor: per layer key and value [batch, kv_heads, length, head_size].

    `values` holds what the session feeds and takes back, in the order of the graph's inputs.
    """

    shares_buffer = False

    def __init__(self, layout: CacheLayout, batch: int, limit: int, budget: MemoryBudget):
        self.layout = layout
        self.batch = batch
        self.limit = limit
        self.lengths: NDArray[np.int64] = np.zeros(batch, np.int64)
        self._budget = budget
        self._reserved = 0
        self._parent: tuple[SeparateKVCache, int] | None = None
        self._kinship = Kinship(batch)
        self._has_twin = False  # whose values are the same arrays
        self.values: list[NDArray[Any]] = [
            np.zeros((batch, heads, 0, size), layout.dtype) for heads, size in layout.layers for _ in range(2)
        ]

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return int(self.lengths.max(initial=0))

    def ensure(self, length: int) -> None:
        """Reserve the bytes of a present of `length` tokens beside its past.

        Raises:
            MemoryLimitError: the budget does not allow it.
        """
        needed = self.layout.bytes_per_token() * self.batch * (2 * length)
        if needed > self._reserved:
            self._budget.reserve(needed - self._reserved, f"a key/value cache of {length} tokens, twice")
            self._reserved = needed

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
        """Leave no row, to `add_row` them one by one."""
        self._take([])

    def add_row(self) -> int:
        """A new row behind the others, empty; its index."""
        self.values = [np.concatenate([value, np.zeros_like(value, shape=(1, *value.shape[1:]))])
                       for value in self.values]  # fmt: skip
        self.lengths = np.append(self.lengths, 0)
        self.batch += 1
        self._kinship = Kinship(self.batch)
        self._has_twin = False
        return self.batch - 1

    def drop_row(self, index: int) -> None:
        """Remove a row. The last row takes its place, and what only it was long enough for is cut off."""
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
        """Make a row hold the first `length` tokens of another one, and nothing else."""
        if self._has_twin:
            self.values = [value.copy() for value in self.values]
            self._has_twin = False
        for value in self.values:
            value[target, :, :length] = value[source, :, :length]
        self.lengths[target] = length
        self._kinship.forget(target)

    def row(self, index: int) -> SeparateKVCache:
        """One row as a batch of 1; what a step adds to it arrives in this cache too."""
        view = SeparateKVCache(self.layout, 1, self.limit, self._budget)
        view.lengths = self.lengths[index : index + 1]
        length = int(view.lengths[0])
        view.values = [np.ascontiguousarray(value[index : index + 1, :, :length]) for value in self.values]
        view._parent = (self, index)
        self._kinship.forget(index)
        return view

    def truncate(self, length: int) -> None:
        """Forget the tokens of every row from position `length` on."""
        np.minimum(self.lengths, length, out=self.lengths)
        self.values = [np.ascontiguousarray(value[:, :, : self.length]) for value in self.values]
        self._kinship.truncate(length)

    def reorder(self, parents: Sequence[int]) -> list[int]:
        """As `KVCache.reorder`: give each of the `parents` a child with its tokens; of each child its row."""
        rows, copies = self._kinship.adopt(parents, self.lengths)
        if copies and self._has_twin:
            self.values = [value.copy() for value in self.values]
            self._has_twin = False
        for copy in copies:
            tokens = slice(copy.start, self.lengths[copy.source])
            for value in self.values:
                value[copy.row, :, tokens] = value[copy.source, :, tokens]
            self.lengths[copy.row] = self.lengths[copy.source]
        return rows

    def copy(self) -> SeparateKVCache:
        """An independent cache with the same content (steps never write into a past, so the arrays are shared).

        Raises:
            MemoryLimitError: the budget does not allow it.
        """
        twin = SeparateKVCache(self.layout, self.batch, self.limit, self._budget)
        twin.ensure(self.length)
        twin.values = list(self.values)
        twin._has_twin = self._has_twin = True
        twin.lengths[:] = self.lengths
        return twin

    def close(self) -> None:
        """Free the arrays and give their bytes back to the budget. May be called twice."""
        self._budget.release(self._reserved)
        self._reserved = 0
        self.values = []

    def __enter__(self) -> SeparateKVCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


AnyCache = KVCache | SeparateKVCache | RowsKVCache


def _allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array in pages of its own, which go back to the system when it does; the heap would keep them."""
    pages = mmap.mmap(-1, max(1, math.prod(shape) * dtype.itemsize))
    return np.frombuffer(pages, dtype, math.prod(shape)).reshape(shape)


def _round_up(length: int, limit: int) -> int:
    return min(math.ceil(length / _GRANULE) * _GRANULE, max(limit, 1))
