"""Lanes: everything bound for single steps of one cache, so that a step binds nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cache import KVCache
from .engine import ort
from .graph_spec import GraphSpec


class Lane:
    """Everything bound for single steps of one cache, so that a step binds nothing.

    The mask is as long as the cache has room: what a single step reads of it is each row's sum, so that a step only
    marks one position more, and every run has inputs of the same shapes.
    """

    def __init__(self, session: Any, spec: GraphSpec, cache: KVCache):
        self._session = session
        self._binding = session.io_binding()
        self._ids = np.empty((cache.batch, 1), np.int64)
        self._logits = np.empty((cache.batch, 1, spec.vocab_size), spec.logits_dtype)
        self._mask = np.zeros((cache.batch, cache.capacity), np.int64)
        self._lengths = np.zeros(cache.batch, np.int64)  # what the mask says now
        self._held = bind_cache(self._binding, spec, cache)
        self._held.append(bind_input(self._binding, "input_ids", self._ids))
        self._held.append(bind_input(self._binding, "attention_mask", self._mask))
        self._held.append(bind_output(self._binding, "logits", self._logits))
        if spec.has_logits_to_keep:
            keep = np.full(spec.keep_shape, 1, np.int64)
            self._held.append(bind_input(self._binding, spec.keep_name, keep))

    def run(self, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[Any]:
        """One token per row; the returned logits [batch, 1, vocabulary] are overwritten by the next run."""
        self._ids[:] = ids
        for row, length in enumerate((lengths + 1).tolist()):
            known = self._lengths[row]
            self._mask[row, min(known, length) : max(known, length)] = length > known
            self._lengths[row] = length
        self._session.run_with_iobinding(self._binding)
        return self._logits


class ExactLane(Lane):
    """A lane for a graph of others: its mask ends with the longest row, since they may ask for its length."""

    def __init__(self, session: Any, spec: GraphSpec, cache: KVCache):
        super().__init__(session, spec, cache)
        self._positions: NDArray[np.int64] | None = None
        if spec.has_position_ids:
            self._positions = np.zeros((cache.batch, 1), np.int64)
            self._held.append(bind_input(self._binding, "position_ids", self._positions))
        if spec.has_cache_branch:
            self._held.append(bind_input(self._binding, "use_cache_branch", np.array([True])))

    def run(self, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[Any]:
        """As `Lane.run`."""
        self._ids[:] = ids
        if self._positions is not None:
            self._positions[:, 0] = lengths
        mask = bind_input(self._binding, "attention_mask", attention_mask(lengths + 1, int(lengths.max(initial=0)) + 1))
        self._session.run_with_iobinding(self._binding)
        del mask  # held until the run is over
        return self._logits


def bind_cache(binding: Any, spec: GraphSpec, cache: KVCache) -> list[Any]:
    """Bind past and present of every layer to the cache's buffers; what is returned must outlive the run."""
    held = []
    names = zip(spec.past_names, spec.present_names, strict=True)
    parts = (
        part for buffer in cache.buffers for part in buffer
    )  # key and value by turns, [batch, heads, capacity, size]
    for (past, present), part in zip(names, parts, strict=True):
        value = ort.OrtValue.ortvalue_from_numpy(part)
        binding.bind_ortvalue_input(past, value)
        binding.bind_ortvalue_output(present, value)
        held.append(value)
    return held


def bind_input(binding: Any, name: str, array: NDArray[Any]) -> Any:
    """Bind an array, not copied on the CPU; what is returned must outlive the run."""
    value = ort.OrtValue.ortvalue_from_numpy(array)
    binding.bind_ortvalue_input(name, value)
    return value


def bind_output(binding: Any, name: str, array: NDArray[Any]) -> Any:
    """Bind an array to be written; what is returned must outlive the run."""
    value = ort.OrtValue.ortvalue_from_numpy(array)
    binding.bind_ortvalue_output(name, value)
    return value


def attention_mask(lengths: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """int64 [batch, total]: ones up to each row's length, zeros behind."""
    return (np.arange(total) < lengths[:, None]).astype(np.int64)
