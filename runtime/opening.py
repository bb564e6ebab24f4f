"""From a graph to ONNX Runtime's session: on the provider that was chosen, and on no other behind the user's back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from .device_memory import DeviceRoom, device_memory, is_out_of_memory, weights_exceed
from .engine import missing_library, one_line, ort, preload_libraries, session_options
from .errors import BundleError, ProviderError
from .manifest import GraphRecord
from .placement import NOT_TOLD, RECORD_KEY, Placement, shown_counts
from .provider_options import provider_arguments
from .providers import UNKNOWN_ORIGIN, Choice, Machine, Origin, choose
from .settings import PROVIDER_LOG, SessionSettings

_logger = logging.getLogger(PROVIDER_LOG)


@dataclass(frozen=True)
class Place:
    """Where a session runs.

    Attributes:
        provider: `cpu`, `cuda` or `dml`.
        reason: why there, in a few words.
        device: the device's number; 0 on the CPU.
        device_name: what its driver calls it; empty on the CPU.
        cuda_graph: whether decode steps may be recorded and replayed.
        placement: where the nodes are.
    """

    provider: str = "cpu"
    reason: str = ""
    device: int = 0
    device_name: str = ""
    cuda_graph: bool = False
    placement: Placement = NOT_TOLD

    def __str__(self) -> str:
        return f"{self.provider} device {self.device} ({self.device_name})" if self.device_name else self.provider

    def room(self, bytes_per_token: int) -> DeviceRoom:
        """The room for caches beside the weights, now that those are there."""
        provider, device = self.provider, self.device
        return DeviceRoom(
            str(self), device_memory(provider, device).free, bytes_per_token, lambda: device_memory(provider, device)
        )


ON_THE_CPU = Place()


def open_graph(
    graph: Path | bytes,
    record: GraphRecord,
    settings: SessionSettings,
    *,
    weights_directory: Path | None = None,
    origin: Origin = UNKNOWN_ORIGIN,
) -> tuple[Any, Place]:
    """Open a graph on the best provider that the settings allow.

    Args:
        graph: the ONNX file (its weights beside it) or its bytes.
        record: what the manifest says of it.
        settings: where it may run.
        weights_directory: where the weights of a graph given as bytes lie.
        origin: what the bundle was made of, for messages.

    Returns:
        ONNX Runtime's session, and where it runs.

    Raises:
        ProviderError: the provider is not there, or would not run the graph.
        OptionError: a provider option that is none.
        BundleError: the graph can't be loaded.
        MemoryLimitError: the weights do not fit on the device.
    """
    machine = Machine(ort.get_available_providers())
    session, place = _open_first(graph, choose(settings, record, origin, machine), settings, weights_directory, machine)
    _tell(place.provider, place.reason)
    return session, place


def _open_first(
    graph: Path | bytes,
    choices: list[Choice],
    settings: SessionSettings,
    weights_directory: Path | None,
    machine: Machine,
) -> tuple[Any, Place]:
    """Open with the first of some choices that really runs the graph."""
    choice, *others = choices
    try:
        return _open(graph, choice, settings, weights_directory, machine)
    except ProviderError as error:
        if not others:
            raise
        next_one = replace(others[0], reason=f"{others[0].reason}; not on {choice.provider.name}: {error}")
    return _open_first(graph, [next_one, *others[1:]], settings, weights_directory, machine)


def _open(
    graph: Path | bytes,
    choice: Choice,
    settings: SessionSettings,
    weights_directory: Path | None,
    machine: Machine,
) -> tuple[Any, Place]:
    provider = choice.provider
    device = machine.device(provider, settings.device_number)
    arguments = provider_arguments(settings, provider.name, device.index)
    options = session_options(settings.threads, weights_directory, low_power=settings.low_power)
    options.add_session_config_entry(RECORD_KEY, "1")
    if provider.name == "dml":  # which has neither memory patterns nor operators side by side
        options.enable_mem_pattern = False
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    place = Place(
        provider=provider.name,
        reason=choice.reason,
        device=device.index,
        device_name="" if provider.name == "cpu" else device.name,
        cuda_graph=arguments.get("enable_cuda_graph") == "1",
    )
    with _quiet(provider.name):
        session = _create(graph, options, provider.runtime_name, arguments, place)
    if provider.runtime_name not in session.get_providers():  # ONNX Runtime fell back to the CPU, and says so in a log
        raise ProviderError(f"ONNX Runtime can't use {provider.title} here: {missing_library(provider.runtime_name)}")
    place = replace(place, placement=Placement.of_session(session))
    if provider.name != "cpu":
        if not settings.allow_fallback:
            place.placement.require_on_device(provider.name)
        if fallen := place.placement.fallen_back():
            _logger.warning("on the CPU instead of %s: %s", provider.name, shown_counts(fallen))
    return session, place


def _create(graph: Path | bytes, options: Any, runtime_name: str, arguments: dict[str, str], place: Place) -> Any:
    source = str(graph) if isinstance(graph, Path) else graph
    try:
        return ort.InferenceSession(source, options, providers=[(runtime_name, arguments)], enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        if place.provider != "cpu" and is_out_of_memory(error):
            memory = device_memory(place.provider, place.device)
            raise weights_exceed(str(place), memory, _bytes_of(graph), error) from error
        if place.provider != "cpu" and any(sign in str(error) for sign in ("CUDA failure", "CUDA error", "DXGI")):
            raise ProviderError(f"{place} does not work ({one_line(error)}): see onnxgpt doctor") from error
        if place.cuda_graph and "graph capture" in str(error):
            raise ProviderError(
                f"steps can't be recorded ({one_line(error)}): leave out --cuda-graph, since not all nodes of this "
                "graph run on the device"
            ) from error
        where = graph if isinstance(graph, Path) else "the graph"
        raise BundleError(f"{where} can't be loaded ({one_line(error)}): export the model again") from error


def _bytes_of(graph: Path | bytes) -> int:
    """Bytes of a graph and the weights beside it."""
    if isinstance(graph, bytes):
        return len(graph)
    return sum(path.stat().st_size for path in graph.parent.glob(f"{graph.name}*"))


@contextmanager
def _quiet(provider: str) -> Iterator[None]:
    """Keep ONNX Runtime's default log off stderr while a device's provider starts: what it says is checked instead."""
    if provider == "cpu":
        yield
        return
    if provider == "cuda":
        preload_libraries()
    ort.set_default_logger_severity(4)  # fatal
    try:
        yield
    finally:
        ort.set_default_logger_severity(3)  # errors


@cache
def _tell(provider: str, reason: str) -> None:
    """Log where something runs, once in a process for each reason."""
    _logger.info("running on %s (%s)", provider, reason)
