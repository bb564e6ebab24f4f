"""Session: one loaded graph on one provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .cache import UNLIMITED, AnyCache, KVCache, SeparateKVCache
from .cache_rows import RowsKVCache
from .device_memory import DeviceRoom
from .device_session import DeviceSession
from .engine import ort, session_options
from .graph_spec import GraphSpec, read_spec
from .lanes import ExactLane, Lane, attention_mask, bind_cache, bind_input, bind_output
from .manifest import PLAIN_GRAPH, GraphRecord
from .memory import MemoryBudget
from .opening import ON_THE_CPU, Place, open_graph
from .providers import UNKNOWN_ORIGIN, Origin
from .settings import DEFAULT_SETTINGS, SessionSettings


class Session:
    """A graph ready to run. One session serves many threads; what belongs to a sequence lives in its cache."""

    def __init__(
        self,
        session: Any,
        spec: GraphSpec,
        *,
        shares_cache_buffer: bool,
        budget: MemoryBudget,
        place: Place = ON_THE_CPU,
        room: DeviceRoom | None = None,
        context_length: int = UNLIMITED,
        foreign: bool = False,
    ):
        self._session = session
        self.spec = spec
        self.shares_cache_buffer = shares_cache_buffer
        self.place = place
        self.room = room  # for caches on a device; None on the CPU
        self.budget = budget
        self.context_length = context_length
        self._foreign = foreign
        self._lane: type[Lane] = ExactLane if foreign else Lane

    @property
    def provider(self) -> str:
        """What it runs on: `cpu`, `cuda` or `dml`."""
        return self.place.provider

    @property
    def input_names(self) -> tuple[str, ...]:
        """The graph's inputs."""
        return tuple(item.name for item in self._session.get_inputs())

    @property
    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs."""
        return tuple(item.name for item in self._session.get_outputs())

    @property
    def steps_rows_together(self) -> bool:
        """Whether rows of unequal length are computed at once. Otherwise one by one, and a batch saves no time."""
        return self.shares_cache_buffer or not self._foreign

    @classmethod
    def open_bundle(
        cls, bundle: Bundle, settings: SessionSettings = DEFAULT_SETTINGS, budget: MemoryBudget | None = None
    ) -> Session:
        """Load the graph of a bundle, by what its manifest says. Args and errors as `open`."""
        manifest = bundle.manifest
        return cls.open(
            bundle.graph_path,
            settings,
            record=manifest.graph,
            origin=Origin(manifest.source.get("location") or "SOURCE", (manifest.quantization or {}).get("name")),
            budget=budget,
            context_length=manifest.context_length,
            architecture=manifest.architecture,
        )

    @classmethod
    def open(
        cls,
        graph: Path | bytes,
        settings: SessionSettings = DEFAULT_SETTINGS,
        *,
        record: GraphRecord = PLAIN_GRAPH,
        weights_directory: Path | None = None,
        origin: Origin = UNKNOWN_ORIGIN,
        budget: MemoryBudget | None = None,
        context_length: int = UNLIMITED,
        architecture: Mapping[str, Any] | None = None,
    ) -> Session:
        """Load a graph from a file or from memory.

        Args:
            graph: the ONNX file (its weights beside it) or its bytes.
            settings: where it runs and with what of the machine.
            record: what the manifest says of it: what it was made for, and how it is fed.
            weights_directory: where the weights of a graph given as bytes lie.
            origin: what the graph was made of, for messages.
            budget: counts the caches' bytes; None: no limit.
            context_length: the most tokens of a sequence: no cache has room for more.
            architecture: see `read_spec`.

        Raises:
            ProviderError: the provider is not there, or would not run the graph.
            OptionError: a provider option that is none.
            BundleError: the graph can't be loaded or is no GPT with past key values.
            MemoryLimitError: the weights do not fit on the device.
        """
        session, place = open_graph(graph, record, settings, weights_directory=weights_directory, origin=origin)
        spec = read_spec(session, architecture)
        room = None
        if place.provider != "cpu":
            room = place.room(spec.layout.bytes_per_token())
            session = DeviceSession(session, room, one_at_a_time=place.provider == "dml")
        return cls(
            session,
            spec,
            shares_cache_buffer=record.shares_cache_buffer,
            budget=budget or MemoryBudget(),
            place=place,
            room=room,
            context_length=context_length,
            foreign=record.foreign,
        )

    def new_cache(self, batch: int = 1, capacity: int = 64, limit: int = UNLIMITED) -> AnyCache:
        """An empty cache for `batch` rows, with room for `capacity` tokens, growing to at most `limit` or the context.

        Raises:
            MemoryLimitError: the budget does not allow it.
        """
        limit = min(limit, self.context_length)
        if self.shares_cache_buffer:
            return KVCache(self.spec.layout, batch, min(capacity, limit), limit, self.budget)
        if self._foreign:
            return RowsKVCache(self.spec.layout, batch, limit, self.budget)
        return SeparateKVCache(self.spec.layout, batch, limit, self.budget)

    def step(self, ids: NDArray[np.int64], cache: AnyCache, keep: int = 1) -> NDArray[Any]:
        """Run new tokens on top of what the cache holds, and add them to it.

        Args:
            ids: int64 [batch, sequence]. Several new tokens on top of a past are for batch 1 only; rows of unequal
                length are prefilled one by one through `cache.row(i)`.
            cache: made by this session; its lengths grow by `sequence`.
            keep: logits of so many last positions; 0: of all.

        Returns:
            Logits [batch, kept, vocabulary]. Single steps return the same buffer every time: copy it to keep it.
        """
        batch, sequence = ids.shape
        if batch != cache.batch:
            raise ValueError(f"ids have {batch} rows and the cache {cache.batch}: expected the same")
        if batch > 1 and sequence > 1 and cache.lengths.any():
            raise ValueError("several new tokens on top of a past are for batch 1: step one token, or use cache.row(i)")
        total = cache.length + sequence
        cache.ensure(total)
        if isinstance(cache, SeparateKVCache):
            logits = self._run_separate(ids, cache, keep, total)
        elif isinstance(cache, RowsKVCache):
            logits = self._run_rows(ids, cache, keep)
        else:
            one = sequence == 1
            logits = self._run_lane(ids, cache) if one else self._run_shared(ids, cache, keep, total)
            cache.advance(sequence)
        return logits if keep == 0 or logits.shape[1] <= keep else logits[:, -keep:]

    def capture(self, ids: NDArray[np.int64], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Outputs of the graph, whatever it has beyond logits and cache, for a prompt from its first token on.

        Args:
            ids: int64 [1, sequence].
            names: outputs to give back.
        """
        layout = self.spec.layout
        pasts = (np.zeros((1, heads, 0, size), layout.dtype) for heads, size in layout.layers for _ in range(2))
        feeds: dict[str, NDArray[Any]] = dict(zip(self.spec.past_names, pasts, strict=True))
        feeds["input_ids"] = ids
        feeds |= self._told(np.ones_like(ids), np.zeros(1, np.int64), ids.shape[1])
        return dict(zip(names, self._session.run(list(names), feeds), strict=True))

    def _run_lane(self, ids: NDArray[np.int64], cache: KVCache) -> NDArray[Any]:
        lane: Lane = cache.lane or self._lane(self._session, self.spec, cache)
        cache.lane = lane
        return lane.run(ids, cache.lengths)

    def _run_shared(self, ids: NDArray[np.int64], cache: KVCache, keep: int, total: int) -> NDArray[Any]:
        kept = ids.shape[1] if keep == 0 or not self.spec.has_logits_to_keep else min(keep, ids.shape[1])
        binding = self._session.io_binding()
        held = bind_cache(binding, self.spec, cache)
        logits = np.empty((cache.batch, kept, self.spec.vocab_size), self.spec.logits_dtype)
        held += [
            bind_input(binding, "input_ids", np.ascontiguousarray(ids)),
            bind_output(binding, "logits", logits),
        ]
        told = self._told(attention_mask(cache.lengths + ids.shape[1], total), cache.lengths, ids.shape[1])
        if self.spec.has_logits_to_keep:
            told[self.spec.keep_name] = np.full(self.spec.keep_shape, kept, np.int64)
        held += [bind_input(binding, name, value) for name, value in told.items()]
        self._session.run_with_iobinding(binding)
        return logits

    def _run_separate(self, ids: NDArray[np.int64], cache: SeparateKVCache, keep: int, total: int) -> NDArray[Any]:
        feeds: dict[str, NDArray[Any]] = dict(zip(self.spec.past_names, cache.values, strict=True))
        feeds["input_ids"] = np.ascontiguousarray(ids)
        feeds |= self._told(attention_mask(cache.lengths + ids.shape[1], total), cache.lengths, ids.shape[1])
        if self.spec.has_logits_to_keep:
            feeds[self.spec.keep_name] = np.full(self.spec.keep_shape, keep, np.int64)
        values = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in feeds.items()}
        results = self._session.run_with_ort_values(["logits", *self.spec.present_names], values)
        cache.advance(ids.shape[1], [result.numpy() for result in results[1:]])
        logits: NDArray[Any] = results[0].numpy()
        return logits

    def _run_rows(self, ids: NDArray[np.int64], cache: RowsKVCache, keep: int) -> NDArray[Any]:
        """Row by row, each as if it were alone."""
        logits = [self._run_row(ids[row : row + 1], cache, row, keep) for row in range(cache.batch)]
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def _run_row(self, ids: NDArray[np.int64], cache: RowsKVCache, row: int, keep: int) -> NDArray[Any]:
        sequence, length = ids.shape[1], cache.lengths[row : row + 1]
        pasts = cache.pasts(row) or [ort.OrtValue.ortvalue_from_numpy(past) for past in cache.empty_pasts()]
        if cache.held(row) != length[0]:
            pasts = [_cut(past, int(length[0])) for past in pasts]
        feeds = {"input_ids": np.ascontiguousarray(ids)}
        feeds |= self._told(np.ones((1, int(length[0]) + sequence), np.int64), length, sequence)
        if self.spec.has_logits_to_keep:
            feeds[self.spec.keep_name] = np.full(self.spec.keep_shape, keep, np.int64)
        values = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in feeds.items()}
        values |= zip(self.spec.past_names, pasts, strict=True)
        results = self._session.run_with_ort_values(["logits", *self.spec.present_names], values)
        cache.advance_row(row, sequence, results[1:])
        logits: NDArray[Any] = results[0].numpy()
        return logits if keep == 0 else logits[:, -keep:]

    def _told(self, mask: NDArray[np.int64], lengths: NDArray[np.int64], sequence: int) -> dict[str, NDArray[Any]]:
        """The mask, and what a foreign graph wants to be told beside it: positions, and whether there is a past."""
        told: dict[str, NDArray[Any]] = {"attention_mask": mask}
        if self.spec.has_position_ids:
            told["position_ids"] = lengths[:, None] + np.arange(sequence)
        if self.spec.has_cache_branch:
            told["use_cache_branch"] = np.array([bool(lengths.any())])
        return told


class PlainGraph:
    """Any graph held in memory: values go in by name and come out by name. For tools; weights stay on disk."""

    def __init__(self, graph: bytes, weights_directory: Path, threads: int | None = None):
        options = session_options(threads, weights_directory)
        options.add_session_config_entry("session.disable_prepacking", "1")  # packing would copy every weight
        options.enable_cpu_mem_arena = False
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs = {item.name: item for item in self._session.get_inputs()}

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The named outputs for all inputs."""
        return dict(zip(names, self._session.run(list(names), dict(feeds)), strict=True))


def _cut(value: Any, length: int) -> Any:
    """A past's first tokens."""
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value.numpy()[:, :, :length]))
