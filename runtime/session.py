"""Session: one loaded graph on one provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .cache import UNLIMITED, AnyCache
from .choices import Choices
from .device_memory import DeviceRoom
from .device_session import DeviceSession
from .device_store import DeviceStore
from .engine import ort, session_options
from .graph_spec import GraphSpec, read_spec
from .lanes import Graph, Outcome, told_inputs
from .manifest import PLAIN_GRAPH, GraphRecord
from .memory import MemoryBudget
from .opening import ON_THE_CPU, Place, open_graph
from .providers import UNKNOWN_ORIGIN, Origin, origin_of
from .recording import Runs
from .settings import DEFAULT_SETTINGS, SessionSettings
from .stepping import new_steps


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
        store: DeviceStore | None = None,
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
        self.runs = Runs(session, None if store is None else store.turn, records=place.cuda_graph)
        self._is_on_device = store is not None
        graph = Graph(self.runs, spec, store)
        self._steps = new_steps(graph, shares_cache_buffer=shares_cache_buffer, foreign=foreign)

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
        return self._steps.steps_rows_together

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
            origin=origin_of(manifest),
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
        room, store = None, None
        if place.provider != "cpu":
            room = place.room(spec.layout.bytes_per_token())
            session = DeviceSession(session, room, one_at_a_time=place.provider == "dml")
            store = DeviceStore(
                session,
                spec.layout,
                device=place.provider,
                index=place.device,
                is_addressable=place.provider != "dml",
                records=place.cuda_graph,
                room=room,
            )
        return cls(
            session,
            spec,
            shares_cache_buffer=record.shares_cache_buffer,
            budget=budget or MemoryBudget(),
            place=place,
            room=room,
            store=store,
            context_length=context_length,
            foreign=record.foreign,
        )

    def new_cache(self, batch: int = 1, capacity: int = 64, limit: int = UNLIMITED) -> AnyCache:
        """An empty cache for `batch` rows, with room for `capacity` tokens, growing to at most `limit` or the context.

        On a device a limit that is given is allocated at once: growing would copy all and end what was recorded.

        Raises:
            MemoryLimitError: the budget, or the device's memory, does not allow it.
        """
        if self._is_on_device and limit < UNLIMITED:
            capacity = limit
        return self._steps.new_cache(batch, capacity, min(limit, self.context_length), self.budget)

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
        logits = self._step(ids, cache, keep).logits()
        return logits if keep == 0 or logits.shape[1] <= keep else logits[:, -keep:]

    def step_choices(self, ids: NDArray[np.int64], cache: AnyCache) -> Choices:
        """As `step`, for a graph that looks for the likeliest tokens itself: those, and the logits stay where they are.

        Returns:
            The likeliest tokens behind each row's last new one. Single steps return the same buffers every time.
        """
        if not self.spec.choices:
            raise ValueError("the graph gives out no choices: expected `spec.choices` of more than 0; use step")
        cache.outcome = outcome = self._step(ids, cache, 1)
        return outcome.choices()

    def last_logits(self, cache: AnyCache) -> NDArray[np.float32]:
        """Logits [batch, vocabulary] at the end of a cache's last step, which was one of `step_choices`."""
        outcome: Outcome = cache.outcome
        return outcome.logits()[:, -1].astype(np.float32, copy=False)

    def _step(self, ids: NDArray[np.int64], cache: AnyCache, keep: int) -> Outcome:
        batch, sequence = ids.shape
        if batch != cache.batch:
            raise ValueError(f"ids have {batch} rows and the cache {cache.batch}: expected the same")
        if batch > 1 and sequence > 1 and cache.lengths.any():
            raise ValueError("several new tokens on top of a past are for batch 1: step one token, or use cache.row(i)")
        cache.outcome = None  # before the next one takes memory
        cache.ensure(cache.length + sequence)
        return self._steps.step(ids, cache, keep)

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
        feeds |= told_inputs(self.spec, np.ones_like(ids), np.zeros(1, np.int64), ids.shape[1])
        return dict(zip(names, self._session.run(list(names), feeds, self.runs.unrecorded), strict=True))


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
