"""Lanes: everything bound for single steps of one cache, so that a step binds nothing; and runs of several tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cache import KVCache
from .choices import Choices
from .device_store import DeviceStore
from .engine import ort
from .graph_spec import CHOICES, GREEDY_IDS, LOG_NORMALIZER, TOP_IDS, TOP_LOGITS, GraphSpec
from .ports import Forms, new_port
from .recording import Recording, Runs


@dataclass(frozen=True)
class Graph:
    """What lanes and other runs of one graph have in common."""

    runs: Runs
    spec: GraphSpec
    store: DeviceStore | None  # where it computes; None: in the computer's own

    @property
    def names(self) -> list[tuple[str, str]]:
        """Of past and present, by turns key and value."""
        return list(zip(self.spec.past_names, self.spec.present_names, strict=True))


class Outcome(ABC):
    """What a run gives, fetched when it is asked for; until the next run of the same lane."""

    @abstractmethod
    def logits(self) -> NDArray[Any]:
        """Logits [batch, kept, vocabulary] in the graph's type."""

    @abstractmethod
    def choices(self) -> Choices:
        """Of the last position the likeliest tokens, where the graph tells them."""


class BoundRun(Outcome):
    """A run whose outputs are bound to ports."""

    def __init__(self, graph: Graph, batch: int, kept: int):
        self._graph, self._runs = graph, graph.runs
        self._binding = graph.runs.session.io_binding()
        spec = graph.spec
        self._logits = new_port(graph.store, {"logits": ((batch, kept, spec.vocab_size), spec.logits_dtype)})
        self._choices = new_port(graph.store, choice_forms(spec.choices, batch) if spec.choices else {})
        for port in (self._logits, self._choices):
            for name in port.arrays:
                port.bind_output(self._binding, name)
        self._held: list[Any] = []  # what is bound beside the ports, and has to live as long
        if spec.has_logits_to_keep:
            self._bind_constant(spec.keep_name, np.full(spec.keep_shape, kept, np.int64))

    def _bind_constant(self, name: str, array: NDArray[Any]) -> None:
        """Bind an input that stays as it is; the graph reads it in the computer's memory."""
        value = ort.OrtValue.ortvalue_from_numpy(array)
        self._binding.bind_ortvalue_input(name, value)
        self._held.append(value)

    def logits(self) -> NDArray[Any]:
        """As `Outcome.logits`."""
        with self._runs.turn:
            self._logits.fetch()
        return self._logits.arrays["logits"]

    def choices(self) -> Choices:
        """As `Outcome.choices`."""
        with self._runs.turn:
            self._choices.fetch()
        return as_choices(self._choices.arrays)


class Lane(BoundRun):
    """Everything bound for single steps of one cache, so that a step binds nothing.

    The mask is as long as the cache has room: what a single step reads of it is each row's sum, so that a step only
    marks one position more, and every run has inputs of the same shapes.
    """

    def __init__(self, graph: Graph, cache: KVCache):
        super().__init__(graph, cache.batch, 1)
        self._lengths = np.zeros(cache.batch, np.int64)  # what the mask says now
        self._held += cache.bind(self._binding, graph.names)
        self._inputs = new_port(graph.store, input_forms(graph.spec, cache.batch, 1, cache.capacity))
        for name in self._inputs.arrays:
            self._inputs.bind_input(self._binding, name)
        if graph.spec.has_cache_branch:
            self._bind_constant("use_cache_branch", np.array([True]))
        self._ids, self._mask = self._inputs.arrays["input_ids"], self._inputs.arrays["attention_mask"]
        self._positions = self._inputs.arrays.get("position_ids")
        # A view is stepped once or twice: not worth a recording.
        self._recording: Recording | None = graph.runs.new_recording() if cache.owns_buffers else None

    def run(self, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """One token [batch, 1] for rows of so many tokens."""
        self._ids[:] = ids
        if self._positions is not None:
            self._positions[:, 0] = lengths
        self._mark(lengths)
        with self._runs.turn:
            self._inputs.send()
            self._runs.run(self._binding, self._recording)

    def _mark(self, lengths: NDArray[np.int64]) -> None:
        for row, length in enumerate((lengths + 1).tolist()):
            known = self._lengths[row]
            self._mask[row, min(known, length) : max(known, length)] = length > known
            self._lengths[row] = length

    def close(self) -> None:
        """Let the recording go."""
        if self._recording is not None:
            self._recording.close()


class ExactLane(Lane):
    """A lane for a graph of others: its mask ends with the longest row, since they may ask for its length."""

    def _mark(self, lengths: NDArray[np.int64]) -> None:
        mask = attention_mask(lengths + 1, int(lengths.max(initial=0)) + 1)
        self._mask.reshape(-1)[: mask.size] = mask.reshape(-1)
        self._inputs.bind_input(self._binding, "attention_mask", mask.shape)


class PromptRun(BoundRun):
    """A run of several tokens, once."""

    def __init__(self, graph: Graph, cache: KVCache, ids: NDArray[np.int64], kept: int, mask_length: int):
        """Bind everything.

        Args:
            graph: of the session.
            cache: what the tokens come behind.
            ids: int64 [batch, sequence].
            kept: logits of so many last positions.
            mask_length: of the mask: the longest row with the new tokens, or more where the graph knows past from
                present by other signs.
        """
        super().__init__(graph, cache.batch, kept)
        batch, sequence = ids.shape
        self._held += cache.bind(self._binding, graph.names)
        self._inputs = new_port(graph.store, input_forms(graph.spec, batch, sequence, mask_length))
        told = told_inputs(graph.spec, attention_mask(cache.lengths + sequence, mask_length), cache.lengths, sequence)
        if "use_cache_branch" in told:
            self._bind_constant("use_cache_branch", told.pop("use_cache_branch"))
        for name, array in {"input_ids": ids, **told}.items():
            self._inputs.arrays[name][:] = array
            self._inputs.bind_input(self._binding, name)

    def run(self) -> None:
        """Run, unrecorded."""
        with self._runs.turn:
            self._inputs.send()
            self._runs.run(self._binding)


class RowOutcomes(Outcome):
    """What rows give that were run one by one."""

    def __init__(self, rows: Sequence[Outcome]):
        self._rows = rows

    def logits(self) -> NDArray[Any]:
        """As `Outcome.logits`."""
        return np.concatenate([row.logits() for row in self._rows])

    def choices(self) -> Choices:
        """As `Outcome.choices`."""
        rows = [row.choices() for row in self._rows]
        return Choices(
            np.concatenate([row.greedy for row in rows]),
            np.concatenate([row.ids for row in rows]),
            np.concatenate([row.logits for row in rows]),
            np.concatenate([row.normalizers for row in rows]),
        )


class ArrayOutcome(Outcome):
    """What a run gave as arrays."""

    def __init__(self, arrays: dict[str, NDArray[Any]]):
        """By the names of the graph's outputs, its presents left out."""
        self._arrays = arrays

    def logits(self) -> NDArray[Any]:
        """As `Outcome.logits`."""
        return self._arrays["logits"]

    def choices(self) -> Choices:
        """As `Outcome.choices`."""
        return as_choices(self._arrays)


def output_names(spec: GraphSpec) -> list[str]:
    """What a graph gives beside its presents."""
    return ["logits", *(CHOICES if spec.choices else ())]


def input_forms(spec: GraphSpec, batch: int, sequence: int, mask_length: int) -> Forms:
    """The inputs that change from run to run."""
    forms = {"input_ids": ((batch, sequence), np.int64), "attention_mask": ((batch, mask_length), np.int64)}
    if spec.has_position_ids:
        forms["position_ids"] = (batch, sequence), np.int64
    return forms


def choice_forms(count: int, batch: int) -> Forms:
    """The outputs of a graph that tells so many of the likeliest tokens."""
    return {
        GREEDY_IDS: ((batch, 1), np.int64),
        TOP_IDS: ((batch, count), np.int64),
        TOP_LOGITS: ((batch, count), np.float32),
        LOG_NORMALIZER: ((batch, 1), np.float32),
    }


def as_choices(arrays: dict[str, NDArray[Any]]) -> Choices:
    """Choices from the graph's outputs."""
    return Choices(arrays[GREEDY_IDS][:, 0], arrays[TOP_IDS], arrays[TOP_LOGITS], arrays[LOG_NORMALIZER][:, 0])


def told_inputs(
    spec: GraphSpec, mask: NDArray[np.int64], lengths: NDArray[np.int64], sequence: int
) -> dict[str, NDArray[Any]]:
    """The mask, and what a foreign graph wants to be told beside it: positions, and whether there is a past."""
    told: dict[str, NDArray[Any]] = {"attention_mask": mask}
    if spec.has_position_ids:
        told["position_ids"] = lengths[:, None] + np.arange(sequence)
    if spec.has_cache_branch:
        told["use_cache_branch"] = np.array([bool(lengths.any())])
    return told


def attention_mask(lengths: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """int64 [batch, total]: ones up to each row's length, zeros behind."""
    return (np.arange(total) < lengths[:, None]).astype(np.int64)
