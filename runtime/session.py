"""Session: one loaded graph on one provider. The only module that imports ONNX Runtime."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cache import UNLIMITED, AnyCache, CacheLayout, KVCache, SeparateKVCache
from .errors import BundleError, ProviderError
from .memory import MemoryBudget
from .providers import choose_provider

_logger = logging.getLogger("onnxgpt")
_TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"
_WEIGHTS_DIRECTORY_KEY = "session.model_external_initializers_file_folder_path"
_FLOAT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_CACHE_TYPES = {
    **_FLOAT_TYPES,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
}  # whole numbers: scales in the graph
_PAST_NAME = re.compile(r"past_key_values\.(\d+)\.(key|value)")


def import_onnxruntime() -> Any:
    """Import ONNX Runtime with its telemetry off, which only the environment before the import can do.

    Raises:
        ProviderError: ONNX Runtime is not installed.
    """
    if "onnxruntime" in sys.modules and os.environ.get(_TELEMETRY_SWITCH) != "1":
        _logger.warning(
            "onnxruntime was imported before onnxgpt with its telemetry on: set %s=1 in the environment, or import "
            "onnxgpt.runtime.session first",
            _TELEMETRY_SWITCH,
        )
    os.environ[_TELEMETRY_SWITCH] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            f"ONNX Runtime can't be imported ({error}): install onnxgpt[cpu], onnxgpt[cuda] or onnxgpt[directml]"
        ) from error
    return onnxruntime


ort = import_onnxruntime()


@dataclass(frozen=True)
class GraphSpec:
    """What a graph's own inputs and outputs say."""

    layout: CacheLayout
    past_names: tuple[str, ...]  # key and value by turns, layer by layer
    present_names: tuple[str, ...]
    vocab_size: int
    has_logits_to_keep: bool
    logits_dtype: np.dtype[Any]  # the cache's own may be smaller


class Session:
    """A graph ready to run. One session serves many threads; what belongs to a sequence lives in its cache."""

    def __init__(
        self,
        session: Any,
        spec: GraphSpec,
        *,
        shares_cache_buffer: bool,
        provider: str,
        budget: MemoryBudget,
        context_length: int = UNLIMITED,
    ):
        self._session = session
        self.spec = spec
        self.shares_cache_buffer = shares_cache_buffer
        self.provider = provider
        self.budget = budget
        self.context_length = context_length

    @classmethod
    def open(
        cls,
        graph: Path | bytes,
        *,
        weights_directory: Path | None = None,
        provider: str = "auto",
        target: str = "cpu",
        threads: int | None = None,
        shares_cache_buffer: bool = True,
        budget: MemoryBudget | None = None,
        context_length: int = UNLIMITED,
    ) -> Session:
        """Load a graph from a file or from memory.

        Args:
            graph: the ONNX file (its weights beside it) or its bytes.
            weights_directory: where the weights of a graph given as bytes lie.
            provider: `cpu`, `cuda`, `dml` or `auto`.
            target: what the graph was exported for.
            threads: threads inside an operator; None lets ONNX Runtime choose (one per physical core).
            shares_cache_buffer: past and present may be one buffer.
            budget: counts the caches' bytes; None: no limit.
            context_length: the most tokens of a sequence: no cache has room for more.

        Raises:
            ProviderError: the provider is not there.
            BundleError: the graph can't be loaded or is no GPT with past key values.
        """
        chosen = choose_provider(provider, target, ort.get_available_providers())
        options = _session_options(threads, weights_directory)
        source = str(graph) if isinstance(graph, Path) else graph
        try:
            session = ort.InferenceSession(source, options, providers=[chosen.runtime_name])
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            where = graph if isinstance(graph, Path) else "the graph"
            raise BundleError(f"{where} can't be loaded ({_one_line(error)}): export the model again") from error
        return cls(
            session,
            read_spec(session),
            shares_cache_buffer=shares_cache_buffer,
            provider=chosen.name,
            budget=budget or MemoryBudget(),
            context_length=context_length,
        )

    def new_cache(self, batch: int = 1, capacity: int = 64, limit: int = UNLIMITED) -> AnyCache:
        """An empty cache for `batch` rows, with room for `capacity` tokens, growing to at most `limit` or the context.

        Raises:
            MemoryLimitError: the budget does not allow it.
        """
        limit = min(limit, self.context_length)
        if self.shares_cache_buffer:
            return KVCache(self.spec.layout, batch, min(capacity, limit), limit, self.budget)
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
        feeds["attention_mask"] = np.ones_like(ids)
        return dict(zip(names, self._session.run(list(names), feeds), strict=True))

    def _run_lane(self, ids: NDArray[np.int64], cache: KVCache) -> NDArray[Any]:
        lane: _Lane = cache.lane or _Lane(self._session, self.spec, cache)
        cache.lane = lane
        return lane.run(ids, cache.lengths)

    def _run_shared(self, ids: NDArray[np.int64], cache: KVCache, keep: int, total: int) -> NDArray[Any]:
        kept = ids.shape[1] if keep == 0 or not self.spec.has_logits_to_keep else min(keep, ids.shape[1])
        binding = self._session.io_binding()
        held = _bind_cache(binding, self.spec, cache)
        logits = np.empty((cache.batch, kept, self.spec.vocab_size), self.spec.logits_dtype)
        held += [
            _bind_input(binding, "input_ids", np.ascontiguousarray(ids)),
            _bind_input(binding, "attention_mask", _mask(cache.lengths + ids.shape[1], total)),
            _bind_output(binding, "logits", logits),
        ]
        if self.spec.has_logits_to_keep:
            held.append(_bind_input(binding, "num_logits_to_keep", np.array([kept], np.int64)))
        self._session.run_with_iobinding(binding)
        return logits

    def _run_separate(self, ids: NDArray[np.int64], cache: SeparateKVCache, keep: int, total: int) -> NDArray[Any]:
        feeds: dict[str, NDArray[Any]] = dict(zip(self.spec.past_names, cache.values, strict=True))
        feeds["input_ids"] = np.ascontiguousarray(ids)
        feeds["attention_mask"] = _mask(cache.lengths + ids.shape[1], total)
        if self.spec.has_logits_to_keep:
            feeds["num_logits_to_keep"] = np.array([keep], np.int64)
        values = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in feeds.items()}
        results = self._session.run_with_ort_values(["logits", *self.spec.present_names], values)
        cache.advance(ids.shape[1], [result.numpy() for result in results[1:]])
        logits: NDArray[Any] = results[0].numpy()
        return logits


class PlainGraph:
    """Any graph held in memory: values go in by name and come out by name. For tools; weights stay on disk."""

    def __init__(self, graph: bytes, weights_directory: Path, threads: int | None = None):
        options = _session_options(threads, weights_directory)
        options.add_session_config_entry("session.disable_prepacking", "1")  # packing would copy every weight
        options.enable_cpu_mem_arena = False
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs = {item.name: item for item in self._session.get_inputs()}

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The named outputs for all inputs."""
        return dict(zip(names, self._session.run(list(names), dict(feeds)), strict=True))


class _Lane:
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
        self._held = _bind_cache(self._binding, spec, cache)
        self._held.append(_bind_input(self._binding, "input_ids", self._ids))
        self._held.append(_bind_input(self._binding, "attention_mask", self._mask))
        self._held.append(_bind_output(self._binding, "logits", self._logits))
        if spec.has_logits_to_keep:
            self._held.append(_bind_input(self._binding, "num_logits_to_keep", np.array([1], np.int64)))

    def run(self, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[Any]:
        """One token per row; the returned logits [batch, 1, vocabulary] are overwritten by the next run."""
        self._ids[:] = ids
        for row, length in enumerate((lengths + 1).tolist()):
            known = self._lengths[row]
            self._mask[row, min(known, length) : max(known, length)] = length > known
            self._lengths[row] = length
        self._session.run_with_iobinding(self._binding)
        return self._logits


def _session_options(threads: int | None, weights_directory: Path | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors: the rest is noise to a user
    options.enable_mem_pattern = False  # a plan per shape would be kept for every length of prompt
    if threads is not None:
        if threads < 1:
            raise ProviderError(f"threads is {threads}: expected 1 or more")
        options.intra_op_num_threads = threads
    if weights_directory is not None:
        options.add_session_config_entry(_WEIGHTS_DIRECTORY_KEY, str(weights_directory))
    return options


def read_spec(session: Any) -> GraphSpec:
    """Read the cache's shapes, names and types from a loaded graph.

    Raises:
        BundleError: it is no GPT with past key values.
    """
    inputs = {item.name: item for item in session.get_inputs()}
    overridable = {item.name for item in session.get_overridable_initializers()}
    outputs = {item.name: item for item in session.get_outputs()}
    pasts = sorted(
        (int(match.group(1)), match.group(2), name) for name in inputs if (match := _PAST_NAME.fullmatch(name))
    )
    presents = tuple(f"present.{layer}.{kind}" for layer, kind, _ in pasts)
    missing = [name for name in ("input_ids", "attention_mask") if name not in inputs]
    missing += [name for name in ("logits", *presents) if name not in outputs]
    if missing or not pasts:
        raise BundleError(
            f"the graph has no {', '.join(missing) or 'past_key_values inputs'}: expected a GPT with past key values; "
            "export the model again"
        )
    keys = [inputs[name] for _, kind, name in pasts if kind == "key"]
    if keys[0].type not in _CACHE_TYPES:
        raise BundleError(f"the graph's cache is {keys[0].type}: expected one of {', '.join(_CACHE_TYPES)}")
    mixed = sorted({inputs[name].type for _, _, name in pasts})
    if len(mixed) > 1:
        raise BundleError(f"the graph's caches are {' and '.join(mixed)}: expected one type; export the model again")
    logits_type = outputs["logits"].type
    if logits_type not in _FLOAT_TYPES:
        raise BundleError(f"the graph's logits are {logits_type}: expected one of {', '.join(_FLOAT_TYPES)}")
    layers = tuple((int(key.shape[1]), int(key.shape[3])) for key in keys)
    return GraphSpec(
        layout=CacheLayout(layers, np.dtype(_CACHE_TYPES[keys[0].type])),
        past_names=tuple(name for _, _, name in pasts),
        present_names=presents,
        vocab_size=int(outputs["logits"].shape[2]),
        has_logits_to_keep="num_logits_to_keep" in inputs or "num_logits_to_keep" in overridable,
        logits_dtype=np.dtype(_FLOAT_TYPES[logits_type]),
    )


def _bind_cache(binding: Any, spec: GraphSpec, cache: KVCache) -> list[Any]:
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


def _bind_input(binding: Any, name: str, array: NDArray[Any]) -> Any:
    value = ort.OrtValue.ortvalue_from_numpy(array)
    binding.bind_ortvalue_input(name, value)
    return value


def _bind_output(binding: Any, name: str, array: NDArray[Any]) -> Any:
    value = ort.OrtValue.ortvalue_from_numpy(array)
    binding.bind_ortvalue_output(name, value)
    return value


def _mask(lengths: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """int64 [batch, total]: ones up to each row's length, zeros behind."""
    return (np.arange(total) < lengths[:, None]).astype(np.int64)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
