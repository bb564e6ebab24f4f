"""Trie: sequences of small numbers as a tree, walked for many places of an array at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, Arrays
from .pair_table import PairTable

NONE = -1


@dataclass(frozen=True)
class Trie:
    """State 0 is the root; the last number of a sequence leads to a state that knows the sequence's id.

    The last state is that of what is no sequence's beginning: no step leads out of it.
    """

    steps: PairTable  # state, number: the next state
    ids: NDArray[np.int32]  # by state, -1 where no sequence ends

    @staticmethod
    def of(sequences: Iterable[tuple[Sequence[int], int]], numbers: int) -> Trie:
        """The tree of sequences, with an id each, of numbers below `numbers`."""
        steps: dict[tuple[int, int], int] = {}
        ends: dict[int, int] = {}
        for sequence, number in sequences:
            state = 0
            for each in sequence:
                state = steps.setdefault((state, each), len(steps) + 1)
            ends[state] = number
        states = len(steps) + 2
        ids = np.array([ends.get(state, NONE) for state in range(states)], np.int32)
        return Trie(PairTable.of(steps, states, numbers), ids)

    def longest(self, numbers: Array, starts: Array, borders: Array | None = None) -> tuple[Array, Array]:
        """The longest sequence that begins at each start.

        Args:
            numbers: int32 [n]; the last one is of no sequence, or has a border before it.
            starts: places, int32 [m], not the last one if there are borders.
            borders: [n], before which numbers a sequence ends and stops; anywhere if not given.

        Returns:
            The place behind it, and its id, [m]; -1 where there is none.
        """

        lost = len(self.ids) - 1

        def step(body: Arrays, held: list[Array]) -> tuple[Array, list[Array]]:
            places, states, ends, ids = held
            states = self.steps.look_up(body, states, body.seen(numbers)[places], lost)
            places = body.where(states != lost, places + 1, places)
            here = body.table(self.ids)[states]
            ended = here >= 0
            if borders is not None:
                border = body.seen(borders)[places]
                ended = ended & border
                states = body.where(border, lost, states)
            return (states != lost).any(), [
                places,
                states,
                body.where(ended, places, ends),
                body.where(ended, here, ids),
            ]

        arrays = numbers.arrays
        root, nothing = arrays.filled(starts, 0, np.int32), arrays.filled(starts, NONE, np.int32)
        _, _, ends, ids = arrays.loop((starts >= 0).any(), [starts, root, nothing, nothing], step)
        return ends, ids
