"""PairTable: for pairs of small numbers a value each, found by two look-ups and a comparison.

The rows of the sparse matrix [first, second] lie over one another in one array, each moved so far that no two values
meet (row displacement): a pair's place is offset[first] + second, and an owner at each place tells whose value it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, Arrays

_NOBODY = -1


@dataclass(frozen=True)
class PairTable:
    """Values of pairs of numbers from 0 on."""

    offsets: NDArray[np.int32]  # by first
    owners: NDArray[np.int32]  # [places]: the first whose value it is, -1 for nobody
    values: NDArray[np.int32]  # [places]

    @staticmethod
    def of(pairs: Mapping[tuple[int, int], int], firsts: int, seconds: int) -> PairTable:
        """The table of some pairs, of first numbers below `firsts` and second ones below `seconds`."""
        rows: dict[int, list[int]] = defaultdict(list)
        for first, second in pairs:
            rows[first].append(second)
        offsets = np.zeros(firsts, np.int32)
        room = _Room(2 * len(pairs) + 2 * seconds)
        for first, row in sorted(rows.items(), key=lambda item: -len(item[1])):
            offsets[first] = room.take(np.array(sorted(row)))
        # The least place of all is that of offset + 0, and the last that of offset + seconds - 1.
        base = min(0, int(offsets.min(initial=0)))
        offsets -= base
        places = int(offsets.max(initial=0)) + seconds
        owners, values = np.full(places, _NOBODY, np.int32), np.zeros(places, np.int32)
        for (first, second), value in pairs.items():
            owners[offsets[first] + second], values[offsets[first] + second] = first, value
        return PairTable(offsets, owners, values)

    def look_up(self, arrays: Arrays, first: Array, second: Array, otherwise: int) -> Array:
        """The values of pairs [n], int32; `otherwise` where there is no such pair."""
        places = arrays.table(self.offsets)[first] + second
        owned = arrays.table(self.owners)[places] == first
        return arrays.where(owned, arrays.table(self.values)[places], otherwise)


class _Room:
    """Places that are free or taken."""

    def __init__(self, places: int):
        self._taken = np.zeros(places, np.bool_)
        self._first_free = 0

    def take(self, row: NDArray[np.int64]) -> int:
        """Take a place for each number of a row, all moved by one offset, which is returned; it may be negative."""
        span = int(row[-1] - row[0])
        start = self._first_free
        while True:
            if start + span + 4096 > len(self._taken):
                self._taken = np.concatenate([self._taken, np.zeros(len(self._taken) + span + 4096, np.bool_)])
            free = start + np.flatnonzero(~self._taken[start : start + 4096])
            fitting = free
            for number in row[1:]:
                fitting = fitting[~self._taken[fitting + int(number - row[0])]]
                if not len(fitting):
                    break
            if len(fitting):
                break
            start += 4096
        offset = int(fitting[0] - row[0])
        self._taken[row + offset] = True
        rest = self._taken[self._first_free :]
        self._first_free += int(np.argmin(rest)) if not rest.all() else len(rest)
        return offset
