"""Stepping: one way to run new tokens on top of a cache for each kind of cache that a graph needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .buffers import Buffers, HostBuffers, host_value
from .cache import AnyCache, KVCache, RowsKVCache, SeparateKVCache
from .cache_layout import CacheLayout
from .device_buffers import DeviceBuffers, RowBuffers
from .engine import ort
from .lanes import (
    ArrayOutcome,
    ExactLane,
    Graph,
    Lane,
    Outcome,
    PromptRun,
    RowOutcomes,
    attention_mask,
    output_names,
    told_inputs,
)
from .memory import MemoryBudget


class Steps(ABC):
    """How one graph is stepped, and the caches that it is stepped with."""

    steps_rows_together = True

    def __init__(self, graph: Graph):
        self._graph = graph

    @abstractmethod
    def new_cache(self, batch: int, capacity: int, limit: int, budget: MemoryBudget) -> AnyCache:
        """An empty cache."""

    @abstractmethod
    def step(self, ids: NDArray[np.int64], cache: Any, keep: int) -> Outcome:
        """Run tokens [batch, sequence], and count them in the cache, which has room for them.

        Args:
            ids: int64; for rows of which none has a past, or one token each, or a single row.
            cache: made here.
            keep: logits of so many last positions, or more; 0: of all.
        """


class SharedSteps(Steps):
    """For graphs whose past and present may be one buffer.

    On a device whose addresses can't be counted with, each row lies for itself and is stepped alone. There masks are
    always as long as the cache has room, since a kernel is compiled anew for each length (DirectML's attention; its
    kernels know a text's beginning by the rows' lengths, those of other providers by the mask's).
    """

    def __init__(self, graph: Graph, *, foreign: bool = False):
        super().__init__(graph)
        self._allocate: Callable[[CacheLayout, int, int], Buffers] = HostBuffers
        if graph.store is not None:
            self._allocate = partial(DeviceBuffers if graph.store.is_addressable else RowBuffers, graph.store)
        self._rows_apart = graph.store is not None and not graph.store.is_addressable
        self.steps_rows_together = not self._rows_apart
        self._lane_kind = ExactLane if foreign and not self._rows_apart else Lane

    def new_cache(self, batch: int, capacity: int, limit: int, budget: MemoryBudget) -> KVCache:
        """As `Steps.new_cache`."""
        return KVCache(self._graph.spec.layout, batch, min(capacity, limit), limit, budget, self._allocate)

    def step(self, ids: NDArray[np.int64], cache: KVCache, keep: int) -> Outcome:
        """As `Steps.step`."""
        if self._rows_apart and cache.batch > 1:
            rows = [self._step(ids[row : row + 1], cache.lent_row(row), keep) for row in range(cache.batch)]
            return RowOutcomes(rows)
        return self._step(ids, cache, keep)

    def _step(self, ids: NDArray[np.int64], cache: KVCache, keep: int) -> Outcome:
        sequence = ids.shape[1]
        if sequence == 1:
            lane = self._lane(cache)
            lane.run(ids, cache.lengths)
            cache.advance(1)
            return lane
        kept = min(keep, sequence) if keep and self._graph.spec.has_logits_to_keep else sequence
        mask_length = cache.capacity if self._rows_apart else cache.length + sequence
        run = PromptRun(self._graph, cache, ids, kept, mask_length)
        run.run()
        cache.advance(sequence)
        return run

    def _lane(self, cache: KVCache) -> Lane:
        """The lane of as many rows as are in use. Lanes of other numbers stay on a device, for what they recorded."""
        lane: Lane | None = cache.lanes.get(cache.batch)
        if lane is None:
            if self._graph.store is None:
                cache.lanes.clear()
            lane = cache.lanes[cache.batch] = self._lane_kind(self._graph, cache)
        return lane


class SeparateSteps(Steps):
    """For graphs whose present is a new tensor, in the computer's memory."""

    def new_cache(self, batch: int, capacity: int, limit: int, budget: MemoryBudget) -> SeparateKVCache:
        """As `Steps.new_cache`."""
        return SeparateKVCache(self._graph.spec.layout, batch, limit, budget)

    def step(self, ids: NDArray[np.int64], cache: SeparateKVCache, keep: int) -> Outcome:
        """As `Steps.step`."""
        spec, sequence = self._graph.spec, ids.shape[1]
        feeds: dict[str, NDArray[Any]] = dict(zip(spec.past_names, cache.values, strict=True))
        feeds["input_ids"] = np.ascontiguousarray(ids)
        mask = attention_mask(cache.lengths + sequence, cache.length + sequence)
        feeds |= told_inputs(spec, mask, cache.lengths, sequence)
        if spec.has_logits_to_keep:
            feeds[spec.keep_name] = np.full(spec.keep_shape, keep, np.int64)
        values = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in feeds.items()}
        names = output_names(spec)
        results = self._graph.runs.session.run_with_ort_values([*names, *spec.present_names], values)
        arrays = [result.numpy() for result in results]
        cache.advance(sequence, arrays[len(names) :])
        return ArrayOutcome(dict(zip(names, arrays, strict=False)))


class RowSteps(Steps):
    """For graphs whose present is a new tensor, row by row: those of others, and on a device.

    The keys and values stay where the graph gave them.
    """

    steps_rows_together = False

    def new_cache(self, batch: int, capacity: int, limit: int, budget: MemoryBudget) -> RowsKVCache:
        """As `Steps.new_cache`."""
        return RowsKVCache(self._graph.spec.layout, batch, limit, budget)

    def step(self, ids: NDArray[np.int64], cache: RowsKVCache, keep: int) -> Outcome:
        """As `Steps.step`, each row as if it were alone."""
        rows = [self._step(ids[row : row + 1], cache, row, keep) for row in range(cache.batch)]
        return rows[0] if len(rows) == 1 else RowOutcomes(rows)

    def _step(self, ids: NDArray[np.int64], cache: RowsKVCache, row: int, keep: int) -> Outcome:
        graph, spec, sequence = self._graph, self._graph.spec, ids.shape[1]
        length = cache.lengths[row : row + 1]
        feeds = {"input_ids": np.ascontiguousarray(ids)}
        feeds |= told_inputs(spec, np.ones((1, int(length[0]) + sequence), np.int64), length, sequence)
        if spec.has_logits_to_keep:
            feeds[spec.keep_name] = np.full(spec.keep_shape, keep, np.int64)
        values = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in feeds.items()}
        values |= zip(spec.past_names, self._pasts(cache, row), strict=True)
        binding = graph.runs.session.io_binding()
        names = output_names(spec)
        place = ("cpu", 0) if graph.store is None else (graph.store.device, graph.store.index)
        with graph.runs.turn:
            for name, value in values.items():
                binding.bind_ortvalue_input(name, value)
            for name in names:
                binding.bind_output(name, "cpu")
            for name in spec.present_names:
                binding.bind_output(name, *place)
            graph.runs.run(binding)
            results = dict(zip([*names, *spec.present_names], binding.get_outputs(), strict=True))
        cache.advance_row(row, sequence, [results[name] for name in spec.present_names])
        return ArrayOutcome({name: results[name].numpy() for name in names})

    def _pasts(self, cache: RowsKVCache, row: int) -> list[Any]:
        """What a row's last step gave, as long as the row is now."""
        length, pasts = int(cache.lengths[row]), cache.pasts(row)
        if not pasts:
            return [host_value(past, cache.layout) for past in cache.empty_pasts()]
        if cache.held(row) == length:
            return pasts
        store = self._graph.store
        if store is not None and store.is_addressable:
            return store.cut(pasts, length)
        return [host_value(np.ascontiguousarray(past.numpy()[:, :, :length]), cache.layout) for past in pasts]


def new_steps(graph: Graph, *, shares_cache_buffer: bool, foreign: bool) -> Steps:
    """How a graph is stepped.

    Args:
        graph: of the session.
        shares_cache_buffer: past and present may be one buffer.
        foreign: somebody else exported it.
    """
    if shares_cache_buffer:
        return SharedSteps(graph, foreign=foreign)
    return SeparateSteps(graph) if graph.store is None and not foreign else RowSteps(graph)
