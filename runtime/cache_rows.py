"""RowsKVCache: the keys and values of rows that are computed one by one, in arrays of each row's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cache_base import Cache
from .cache_layout import CacheLayout
from .memory import MemoryBudget


@dataclass
class _Held:
    """What one row's last step gave: nobody ever writes into it, so rows may have it in common."""

    length: int = 0  # tokens
    values: list[Any] = field(default_factory=list)  # as the session holds them, in the order of the graph's inputs


class RowsKVCache(Cache):
    """A cache for graphs whose present is a new tensor, row by row.

    Those are graphs of others, that say nothing of rows of unequal length, and graphs on a device, where rows are not
    put together and taken apart.

    Each row has keys and values [1, kv_heads, length, head_size] of its own. `lengths` int64 [batch] tells how much
    of them counts; what is too much is cut off when the row is stepped.
    """

    shares_buffer = False

    def __init__(self, layout: CacheLayout, batch: int, limit: int, budget: MemoryBudget):
        super().__init__(layout, batch, limit, budget)
        self._rows = [_Held() for _ in range(batch)]
        self._owned = True

    def ensure(self, length: int) -> None:
        """As `Cache.ensure`: reserve the bytes of a present of `length` tokens beside its past, for each row."""
        if self._owned:
            needed = self.layout.bytes_per_token() * self.batch * (2 * length)
            self._reserve(needed, f"a key/value cache of {length} tokens, twice")

    # What the session asks

    def pasts(self, row: int) -> list[Any]:
        """What a row's last step gave, `held(row)` tokens long; empty: it took none yet."""
        return self._rows[row].values

    def held(self, row: int) -> int:
        """How many tokens long `pasts(row)` are: never fewer than the row's length."""
        return self._rows[row].length

    def empty_pasts(self) -> list[NDArray[Any]]:
        """The pasts of a row without tokens, [1, kv_heads, 0, head_size] each."""
        layout = self.layout
        return [np.zeros((1, heads, 0, size), layout.dtype) for heads, size in layout.layers for _ in range(2)]

    def advance_row(self, row: int, count: int, presents: Sequence[Any]) -> None:
        """Take a step's presents, `count` tokens longer than the row was, as its next pasts."""
        self.lengths[row] += count
        held = self._rows[row]
        held.length, held.values = int(self.lengths[row]), list(presents)

    # What those who generate ask

    def clear(self) -> None:
        """As `Cache.clear`."""
        self.batch, self.lengths, self._rows = 0, np.zeros(0, np.int64), []

    def add_row(self) -> int:
        """As `Cache.add_row`."""
        self._rows.append(_Held())
        self.lengths = np.append(self.lengths, 0)
        self.batch += 1
        return self.batch - 1

    def drop_row(self, index: int) -> None:
        """As `Cache.drop_row`."""
        self._rows[index], self.lengths[index] = self._rows[-1], self.lengths[-1]
        self._rows.pop()
        self.lengths = self.lengths[:-1].copy()
        self.batch -= 1

    def copy_row(self, source: int, target: int, length: int) -> None:
        """As `Cache.copy_row`; nothing is copied."""
        held = self._rows[source]
        self._rows[target].length, self._rows[target].values = held.length, held.values
        self.lengths[target] = length

    def row(self, index: int) -> RowsKVCache:
        """As `Cache.row`."""
        view = RowsKVCache(self.layout, 1, self.limit, self._budget)
        view.lengths, view._rows = self.lengths[index : index + 1], [self._rows[index]]
        view._owned = False
        return view

    def truncate(self, length: int) -> None:
        """As `Cache.truncate`."""
        np.minimum(self.lengths, length, out=self.lengths)

    def reorder(self, parents: Sequence[int]) -> list[int]:
        """As `Cache.reorder`, in the order of the parents; nothing is copied."""
        self._rows = [_Held(self._rows[parent].length, self._rows[parent].values) for parent in parents]
        self.lengths[:] = self.lengths[list(parents)]
        return list(range(len(parents)))

    def copy(self) -> RowsKVCache:
        """As `Cache.copy`."""
        twin = RowsKVCache(self.layout, self.batch, self.limit, self._budget)
        twin.ensure(self.length)
        twin._rows = [_Held(held.length, held.values) for held in self._rows]
        twin.lengths[:] = self.lengths
        return twin

    def close(self) -> None:
        """As `Cache.close`. A view leaves the memory where it is."""
        super().close()
        self._rows = []
