"""Kinship: what the rows of a cache have in common, so that a row becomes another one by copying only the rest.

Rows that were one row once hold the same keys and values up to the token at which they parted. A beam search makes
rows into copies of each other at every step; most of what would be copied is there already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RowCopy:
    """Tokens to be copied between rows: `source`'s from `start` on, over those of `row`."""

    row: int
    source: int
    start: int


class Kinship:
    """For each pair of rows, the number of leading tokens whose keys and values are known to be the same."""

    def __init__(self, batch: int):
        self._common: NDArray[np.int64] = np.zeros((batch, batch), np.int64)

    def adopt(self, parents: Sequence[int], lengths: NDArray[np.int64]) -> tuple[list[int], list[RowCopy]]:
        """Choose a row for a child of each of the `parents`, and note that it has its parent's tokens now.

        A parent's first child takes over the parent's row. The others take rows whose tokens no child needs, the one
        that has the most in common with the parent first.

        Args:
            parents: [batch], rows; a row may be the parent of several children, or of none.
            lengths: int64 [batch], the tokens that the rows hold; those that came last may be anything.

        Returns:
            Of each child its row, and what has to be copied. No row is both read and written.

        >>> kinship, lengths = Kinship(3), np.array([5, 5, 5])
        >>> kinship.adopt([0, 0, 0], lengths)[1]  # nothing is known to be common: all five tokens
        [RowCopy(row=1, source=0, start=0), RowCopy(row=2, source=0, start=0)]
        >>> kinship.adopt([2, 0, 2], lengths + 2)  # all grew by two tokens since
        ([2, 0, 1], [RowCopy(row=1, source=2, start=5)])
        """
        np.fill_diagonal(self._common, lengths)
        free = sorted(set(range(len(parents))) - set(parents))
        origins = list(range(len(parents)))  # of each row, whose tokens it will hold
        rows: list[int] = []
        copies = []
        for parent in parents:
            row = parent
            if parent in rows:
                row = max(free, key=lambda candidate: self._common[candidate, parent])
                free.remove(row)
                origins[row] = parent
                copies.append(RowCopy(row, parent, int(self._common[row, parent])))
            rows.append(row)
        self._common = self._common[np.ix_(origins, origins)]
        return rows, copies

    def truncate(self, length: int) -> None:
        """Note that rows hold at most `length` tokens now."""
        np.minimum(self._common, length, out=self._common)

    def forget(self, row: int) -> None:
        """Note that somebody else may rewrite a row."""
        self._common[row] = 0
        self._common[:, row] = 0
