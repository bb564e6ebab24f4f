"""Rows: what logits processors know of the texts whose next tokens are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
TokenIds = Sequence[Sequence[int] | Ids]  # of every row, prompt included; rows may differ in length


@dataclass(frozen=True)
class Rows:
    """The texts whose next tokens are chosen. Ids as int64 arrays cost least; they are read at once and not kept.

    `sequences` are the indices of the rows within their prompts, as the random stream counts them.
    """

    token_ids: TokenIds
    prompt_lengths: Sequence[int]
    sequences: Sequence[int]

    def only(self, row: int) -> Rows:
        """One of the rows."""
        return Rows([self.token_ids[row]], [self.prompt_lengths[row]], [self.sequences[row]])

    @cached_property
    def lengths(self) -> Ids:
        """Tokens of each row, [rows]."""
        return np.array([len(ids) for ids in self.token_ids], np.int64)

    @cached_property
    def new_counts(self) -> Ids:
        """New tokens of each row so far, which is also the step of the random stream, [rows]."""
        return self.lengths - np.asarray(self.prompt_lengths, np.int64)

    @cached_property
    def ids(self) -> Ids:
        """The tokens of all rows, one row after the other."""
        rows = [np.asarray(ids, np.int64) for ids in self.token_ids]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    @cached_property
    def starts(self) -> Ids:
        """Where each row begins in `ids`, [rows]."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def owners(self) -> Ids:
        """The row of each of `ids`."""
        return np.repeat(np.arange(len(self.token_ids)), self.lengths)

    @cached_property
    def positions(self) -> Ids:
        """The position in its row of each of `ids`."""
        return np.arange(len(self.ids)) - self.starts[self.owners]

    def cells(self, vocabulary: int) -> Ids:
        """Index into flattened logits [rows * vocabulary] of each of `ids`."""
        return self.ids if len(self.token_ids) == 1 else self.ids + self.owners * vocabulary

    def new_cells(self, vocabulary: int) -> Ids:
        """As `cells`, of the new tokens alone."""
        if len(self.token_ids) == 1:
            return self.ids[self.prompt_lengths[0] :]
        return self.cells(vocabulary)[self.positions >= np.asarray(self.prompt_lengths)[self.owners]]

    def last(self, count: int) -> Ids:
        """The last `count` tokens of each row, [rows, count]; -1 where a row is shorter."""
        back = np.arange(-count, 0)
        places = np.maximum(self.starts[:, None] + self.lengths[:, None] + back, 0)
        return np.where(self.lengths[:, None] + back >= 0, self.ids[places], -1)
