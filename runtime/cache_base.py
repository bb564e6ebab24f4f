"""What all caches have in common, whatever holds their keys and values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .cache_layout import CacheLayout
from .memory import MemoryBudget

if TYPE_CHECKING:
    from typing import Self  # Python 3.11


class Cache(ABC):
    """The keys and values of the rows of a batch so far.

    `lengths` int64 [batch] are the tokens that each row holds. Rows are numbered from 0; when one leaves, the last one
    takes its place.
    """

    shares_buffer: ClassVar[bool]

    def __init__(self, layout: CacheLayout, batch: int, limit: int, budget: MemoryBudget):
        self.layout = layout
        self.batch = batch  # rows in use
        self.limit = limit  # tokens of a row
        self.lengths: NDArray[np.int64] = np.zeros(batch, np.int64)
        self.outcome: Any = None  # what the session may be asked about its last step
        self._budget = budget
        self._reserved = 0  # bytes of the budget

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return int(self.lengths.max(initial=0))

    @abstractmethod
    def ensure(self, length: int) -> None:
        """Make room for rows of `length` tokens.

        Raises:
            MemoryLimitError: the budget, or the device's memory, does not allow it.
        """

    @abstractmethod
    def clear(self) -> None:
        """Leave no row in use, to `add_row` them one by one."""

    @abstractmethod
    def add_row(self) -> int:
        """Take a row into use behind the others, empty; its index."""

    @abstractmethod
    def drop_row(self, index: int) -> None:
        """Take a row out of use. The last row takes its place."""

    @abstractmethod
    def copy_row(self, source: int, target: int, length: int) -> None:
        """Make a row hold the first `length` tokens of another one, and nothing else."""

    @abstractmethod
    def row(self, index: int) -> Self:
        """One row as a batch of 1: what a step adds to it is in this cache too."""

    @abstractmethod
    def truncate(self, length: int) -> None:
        """Forget the tokens of every row from position `length` on."""

    @abstractmethod
    def reorder(self, parents: Sequence[int]) -> list[int]:
        """Give each of the `parents` (rows) a child with its tokens, as a beam search does after every step.

        Args:
            parents: [batch]; a row may be named several times, or never: then its tokens are lost.

        Returns:
            Of each child its row.
        """

    @abstractmethod
    def copy(self) -> Self:
        """An independent cache with the same content.

        Raises:
            MemoryLimitError: the budget, or the device's memory, does not allow it.
        """

    def close(self) -> None:
        """Free the memory and give its bytes back to the budget. May be called twice."""
        self._budget.release(self._reserved)
        self._reserved = 0
        self.outcome = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reserve(self, needed: int, purpose: str) -> None:
        """Have `needed` bytes of the budget in all; never fewer than before."""
        if needed > self._reserved:
            self._budget.reserve(needed - self._reserved, purpose)
            self._reserved = needed
