"""RowsKVCache: the keys and values of rows that are computed one by one, in arrays of each row's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .memory import MemoryBudget

if TYPE_CHECKING:
    from .cache import CacheLayout


@dataclass
class _Held:
    """What one row's last step gave: nobody ever writes into it, so rows may have it in common."""

    length: int = 0  # tokens
    values: list[Any] = field(default_factory=list)  # as the session holds them, in the order of the graph's inputs


class RowsKVCache:
    """A cache for graphs of others whose present is a new tensor, and that say nothing of rows of unequal length.

    Each row has keys and values [1, kv_heads, length, head_size] of its own. `lengths` int64 [batch] tells how much
    of them counts; what is too much is cut off when the row is stepped.
    """

    shares_buffer = False

    def __init__(self, layout: CacheLayout, batch: int, limit: int, budget: MemoryBudget):
        self.layout = layout
        self.batch = batch
        self.limit = limit
        self.lengths: NDArray[np.int64] = np.zeros(batch, np.int64)
        self._rows = [_Held() for _ in range(batch)]
        self._budget = budget
        self._reserved = 0
        self._owned = True

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return int(self.lengths.max(initial=0))

    def ensure(self, length: int) -> None:
        """Reserve the bytes of a present of `length` tokens beside its past, for each row.

        Raises:
            MemoryLimitError: the budget does not allow it.
        """
        needed = self.layout.bytes_per_token() * self.batch * (2 * length)
        if self._owned and needed > self._reserved:
            self._budget.reserve(needed - self._reserved, f"a key/value cache of {length} tokens, twice")
            self._reserved = needed

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
        """Leave no row, to `add_row` them one by one."""
        self.batch, self.lengths, self._rows = 0, np.zeros(0, np.int64), []

    def add_row(self) -> int:
        """A new row behind the others, empty; its index."""
        self._rows.append(_Held())
        self.lengths = np.append(self.lengths, 0)
        self.batch += 1
        return self.batch - 1

    def drop_row(self, index: int) -> None:
        """Remove a row. The last row takes its place."""
        self._rows[index], self.lengths[index] = self._rows[-1], self.lengths[-1]
        self._rows.pop()
        self.lengths = self.lengths[:-1].copy()
        self.batch -= 1

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Make a row hold the first `length` tokens of another one, and nothing else."""
        held = self._rows[source]
        self._rows[target].length, self._rows[target].values = held.length, held.values
        self.lengths[target] = length

    def row(self, index: int) -> RowsKVCache:
        """A view of one row as a batch of 1: what a step adds to it is in this cache too."""
        view = RowsKVCache(self.layout, 1, self.limit, self._budget)
        view.lengths, view._rows = self.lengths[index : index + 1], [self._rows[index]]
        view._owned = False
        return view

    def truncate(self, length: int) -> None:
        """Forget the tokens of every row from position `length` on."""
        np.minimum(self.lengths, length, out=self.lengths)

    def reorder(self, parents: Sequence[int]) -> list[int]:
        """Give each of the `parents` (rows) a child with its tokens, in the order of the parents; nothing is copied.

        Returns:
            Of each child its row.
        """
        self._rows = [_Held(self._rows[parent].length, self._rows[parent].values) for parent in parents]
        self.lengths[:] = self.lengths[list(parents)]
        return list(range(len(parents)))

    def copy(self) -> RowsKVCache:
        """An independent cache with the same content.

        Raises:
            MemoryLimitError: the budget does not allow it.
        """
        twin = RowsKVCache(self.layout, self.batch, self.limit, self._budget)
        twin.ensure(self.length)
        twin._rows = [_Held(held.length, held.values) for held in self._rows]
        twin.lengths[:] = self.lengths
        return twin

    def close(self) -> None:
        """Free the arrays and give their bytes back to the budget. May be called twice. A view leaves them there."""
        self._budget.release(self._reserved)
        self._reserved = 0
        self._rows = []

    def __enter__(self) -> RowsKVCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
