"""Rows: what logits processors know of the texts whose next tokens are chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
TokenIds = Sequence[Sequence[int] | Ids]  # of every row, prompt included; rows may differ in length


class Rows:
    """The texts whose next tokens are chosen; made anew for each step, and computing what is asked for only."""

    __slots__ = ("_ids", "_lengths", "_owners", "prompt_lengths", "sequences", "token_ids")

    def __init__(self, token_ids: TokenIds, prompt_lengths: Sequence[int], sequences: Sequence[int]):
        """Rows of tokens.

        Args:
            token_ids: of each row, prompt included. As int64 arrays they cost least; they are read at once, not kept.
            prompt_lengths: how many of a row's tokens are its prompt.
            sequences: the indices of the rows within their prompts, as the random stream counts them.
        """
        self.token_ids = token_ids
        self.prompt_lengths = prompt_lengths
        self.sequences = sequences
        self._ids: Ids | None = None
        self._lengths: Ids | None = None
        self._owners: Ids | None = None

    def only(self, row: int) -> Rows:
        """One of the rows."""
        return Rows([self.token_ids[row]], [self.prompt_lengths[row]], [self.sequences[row]])

    @property
    def lengths(self) -> Ids:
        """Tokens of each row, [rows]."""
        if self._lengths is None:
            self._lengths = np.array([len(ids) for ids in self.token_ids], np.int64)
        return self._lengths

    @property
    def new_counts(self) -> Ids:
        """New tokens of each row so far, which is also the step of the random stream, [rows]."""
        return self.lengths - np.asarray(self.prompt_lengths, np.int64)

    @property
    def ids(self) -> Ids:
        """The tokens of all rows, one row after the other."""
        if self._ids is None:
            rows = [np.asarray(ids, np.int64) for ids in self.token_ids]
            self._ids = rows[0] if len(rows) == 1 else np.concatenate(rows)
        return self._ids

    @property
    def starts(self) -> Ids:
        """Where each row begins in `ids`, [rows]."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def owners(self) -> Ids:
        """The row of each of `ids`."""
        if self._owners is None:
            self._owners = np.repeat(np.arange(len(self.token_ids)), self.lengths)
        return self._owners

    @property
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
