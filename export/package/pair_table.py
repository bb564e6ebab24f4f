"""PairTable: for pairs of small numbers a value each, found by two look-ups and a comparison.

The rows of the sparse matrix [first, second] lie over one another in one array, each moved so far that no two values
meet (row displacement): a pair's place is offset[first] + second, and what lies there tells which first it belongs to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, Arrays

_NOBODY = -1
_MOST_TRIES = 16384


@dataclass(frozen=True)
class PairTable:
    """Values of pairs of numbers from 0 on."""

    offsets: NDArray[np.int32]  # by first
    entries: NDArray[np.int32]  # [places]: which pair lies there; the last entry, which is none, where there is no pair
    owners: NDArray[np.int32]  # by entry: its first; -1 for the last one
    values: NDArray[np.int32]  # by entry

    @staticmethod
    def of(pairs: Mapping[tuple[int, int], int], firsts: int, seconds: int) -> PairTable:
        """The table of some pairs, of first numbers below `firsts` and second ones below `seconds`."""
        rows: dict[int, list[int]] = defaultdict(list)
        for first, second in pairs:
            rows[first].append(second)
        offsets = np.zeros(firsts, np.int32)
        room = _Room(2 * len(pairs) + seconds)
        # The longest rows first; those of one number fill what is left.
        for first, row in sorted(rows.items(), key=lambda item: -len(item[1])):
            if len(row) > 1:
                offsets[first] = room.take(np.array(sorted(row)))
        single = {first: row[0] for first, row in rows.items() if len(row) == 1}
        for (first, second), place in zip(single.items(), room.take_any(len(single)), strict=True):
            offsets[first] = place - second
        # The least place of all is that of offset + 0, and the last that of offset + seconds - 1.
        base = min(0, int(offsets.min(initial=0)))
        offsets -= base
        places = int(offsets.max(initial=0)) + seconds
        entries = np.full(places, len(pairs), np.int32)
        for entry, (first, second) in enumerate(pairs):
            entries[offsets[first] + second] = entry
        owners = np.array([*(first for first, _ in pairs), _NOBODY], np.int32)
        return PairTable(offsets, entries, owners, np.array([*pairs.values(), 0], np.int32))

    def look_up(self, arrays: Arrays, first: Array, second: Array, otherwise: int) -> Array:
        """The values of pairs [n], int32; `otherwise` where there is no such pair."""
        entries = arrays.table(self.entries)[arrays.table(self.offsets)[first] + second]
        owned = arrays.table(self.owners)[entries] == first
        in_order = np.array_equal(self.values[:-1], np.arange(len(self.values) - 1))
        return arrays.where(owned, entries if in_order else arrays.table(self.values)[entries], otherwise)


class _Room:
    """Places that are free or taken."""

    def __init__(self, places: int):
        self._taken = np.zeros(places, np.bool_)
        self._chance = np.random.default_rng(0)  # the same table every time

    def take(self, row: NDArray[np.int64]) -> int:
        """Take a place for each number of a row, all moved by one offset, which is returned; it may be negative.

        Offsets are tried at random, many together: looking for the first one that fits takes minutes for some
        tokenizers.
        """
        moved = row - row[0]
        count = 16
        while True:
            tried = self._chance.integers(len(self._taken) - int(moved[-1]), size=count)
            for number in moved:
                tried = tried[~self._taken[tried + number]]
            if len(tried):
                break
            if count == _MOST_TRIES:
                self._taken = np.concatenate([self._taken, np.zeros(len(self._taken) // 8, np.bool_)])
            count = min(4 * count, _MOST_TRIES)
        self._taken[tried[0] + moved] = True
        return int(tried[0] - row[0])

    def take_any(self, count: int) -> NDArray[np.int64]:
        """Take the first free places."""
        found = np.flatnonzero(~self._taken)[:count]
        self._taken[found] = True
        return found
