"""KVCache: the keys and values of one sequence or batch so far, in buffers that grow under a memory budget.

Decided by the graph: `KVCache` is for graphs whose past and present may be one buffer: a step writes
its keys and values in place and copies nothing. `SeparateKVCache` is for graphs that give a longer present for a
past: the present of one step is the past of the next. `RowsKVCache` is for such graphs that others exported, whose
rows are computed one by one, and for devices whose memory only whole tensors can be made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .buffers import Buffers, HostBuffers, Names
from .cache_base import Cache
from .cache_layout import CacheLayout
from .cache_rows import RowsKVCache
from .cache_separate import SeparateKVCache
from .kinship import Kinship
from .memory import MemoryBudget

__all__ = ["UNLIMITED", "AnyCache", "CacheLayout", "KVCache", "RowsKVCache", "SeparateKVCache"]

UNLIMITED = 1 << 31  # tokens
_GRANULE = 64  # tokens; capacities are multiples of it

AnyCache = Cache


class KVCache(Cache):
    """A cache whose buffers past and present share: per layer [2, batch, kv_heads, capacity, head_size].

    What lies behind a row's tokens is not defined. The rows in use are the first ones of those that were allocated:
    all of them, until `clear` or `drop_row` makes it fewer.
    """

    shares_buffer = True

    def __init__(
        self,
        layout: CacheLayout,
        batch: int,
        capacity: int,
        limit: int,
        budget: MemoryBudget,
        allocate: Callable[[CacheLayout, int, int], Buffers] = HostBuffers,
    ):
        """Allocate room for `capacity` tokens per row; it grows to at most `limit`.

        The budget is asked for the whole `limit` at once, so that a generation that begins also ends.

        Raises:
            MemoryLimitError: the budget, or the device's memory, does not allow it.
        """
        super().__init__(layout, batch, limit, budget)
        self.lanes: dict[int, Any] = {}  # by the number of rows in use: what is bound to step them; see `close`
        self._lent: dict[int, KVCache] = {}
        self._owned = True
        self._kinship = Kinship(batch)
        self._all_lengths = self.lengths  # of all allocated rows
        self._allocate = allocate
        self._first = 0  # of the rows in the buffers; others than 0 are of a view
        self.capacity = _round_up(max(capacity, 1), limit)
        self._promise(self.capacity)
        try:
            self._buffers = allocate(layout, batch, self.capacity)
        except BaseException:
            self._budget.release(self._reserved)
            raise

    @property
    def buffers(self) -> list[NDArray[Any]]:
        """Of each layer the rows in use, where they lie in the computer's memory, and not on a device."""
        assert isinstance(self._buffers, HostBuffers)
        return [array[:, self._first : self._first + self.batch] for array in self._buffers.arrays]

    @property
    def owns_buffers(self) -> bool:
        """Whether it is no view of another cache's row."""
        return self._owned

    def bind(self, binding: Any, names: Names) -> list[Any]:
        """Bind the rows in use as past and as present; what is returned must outlive the run."""
        return self._buffers.bind(binding, names, self._first, self.batch)

    def ensure(self, length: int) -> None:
        """Make room for rows of `length` tokens: by half again at least, so that growing costs little per token.

        Raises:
            MemoryLimitError: the budget, or the device's memory, does not allow it; the cache is as it was.
            ValueError: this is a view of a row, or `length` is over the limit.
        """
        if length <= self.capacity:
            return
        if not self._owned or length > self.limit:
            raise ValueError(f"a cache of capacity {self.capacity} (limit {self.limit}) can't hold {length} tokens")
        capacity = _round_up(max(length, self.capacity + self.capacity // 2), self.limit)
        self._promise(capacity)
        self._close_lanes()
        self._buffers = self._buffers.grown(capacity, self.batch, self.length)
        self.capacity = capacity

    def _promise(self, capacity: int) -> None:
        promised = capacity if self.limit >= UNLIMITED else self.limit
        needed = self.layout.bytes_per_token() * len(self._all_lengths) * promised
        self._reserve(needed, f"a key/value cache of {promised} tokens")

    def _use(self, batch: int) -> None:
        self.batch = batch
        self.lengths = self._all_lengths[:batch]
        self._kinship = Kinship(batch)

    def clear(self) -> None:
        """As `Cache.clear`."""
        self._use(0)

    def add_row(self) -> int:
        """As `Cache.add_row`."""
        self._use(self.batch + 1)
        self.lengths[-1] = 0
        return self.batch - 1

    def drop_row(self, index: int) -> None:
        """As `Cache.drop_row`; nothing else is copied."""
        last = self.batch - 1
        if index != last:
            self.copy_row(last, index, int(self.lengths[last]))
        self._use(last)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """As `Cache.copy_row`."""
        self._buffers.copy_row(self._first + source, self._first + target, 0, length)
        self.lengths[target] = length
        self._kinship.forget(target)

    def row(self, index: int) -> KVCache:
        """As `Cache.row`, over the same memory; it can't grow."""
        self._kinship.forget(index)
        return self._view(index)

    def lent_row(self, index: int) -> KVCache:
        """As `row`, the same view every time, for whoever steps all rows one by one."""
        if index not in self._lent:
            self._lent[index] = self._view(index)
        return self._lent[index]

    def _view(self, index: int) -> KVCache:
        view = object.__new__(KVCache)
        Cache.__init__(view, self.layout, 1, self.capacity, self._budget)
        view.lengths = view._all_lengths = self.lengths[index : index + 1]
        view.lanes, view._lent, view._owned, view._kinship = {}, {}, False, Kinship(1)
        view._allocate, view._buffers, view._first = self._allocate, self._buffers, self._first + index
        view.capacity = self.capacity
        return view

    def advance(self, count: int) -> None:
        """Count `count` tokens per row that a step has written."""
        self.lengths += count

    def truncate(self, length: int) -> None:
        """As `Cache.truncate`."""
        np.minimum(self.lengths, length, out=self.lengths)
        self._kinship.truncate(length)

    def reorder(self, parents: Sequence[int]) -> list[int]:
        """As `Cache.reorder`. Children lie where they cost least.

        A parent's first child lies in its row, without a copy; for the others only the tokens are copied that their
        row does not have in common with the parent.
        """
        rows, copies = self._kinship.adopt(parents, self.lengths)
        for copy in copies:
            length = int(self.lengths[copy.source])
            self._buffers.copy_row(self._first + copy.source, self._first + copy.row, copy.start, length)
            self.lengths[copy.row] = length
        return rows

    def copy(self) -> KVCache:
        """As `Cache.copy`."""
        twin = KVCache(self.layout, self.batch, self.capacity, self.limit, self._budget, self._allocate)
        twin._buffers.fill(self._buffers, self._first, self.batch, self.length)
        twin.lengths[:] = self.lengths
        return twin

    def close(self) -> None:
        """As `Cache.close`. A view leaves the memory where it is."""
        super().close()
        self._close_lanes()
        self.capacity = 0
        if self._owned:
            self._buffers.close()

    def _close_lanes(self) -> None:
        for lane in self.lanes.values():
            lane.close()
        self.lanes, self._lent = {}, {}


def _round_up(length: int, limit: int) -> int:
    return min(math.ceil(length / _GRANULE) * _GRANULE, max(limit, 1))
