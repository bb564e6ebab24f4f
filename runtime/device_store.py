"""DeviceStore: allocating on a device and copying within it, with no more than ONNX Runtime offers to Python.

Memory is allocated by the session's own allocator where ONNX Runtime lends it (from 1.31 on), so that the provider's
options hold for it; its common one takes up to twice as much, since it grows by powers of two. (What comes from a
session's own can be bound to others by its address only, so where that is none the common one serves.) ONNX Runtime
copies between two places of one device in the run of a session only: here that of a graph of so many `Identity` nodes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

from .cache_layout import CacheLayout
from .device_memory import DeviceRoom, asked_bytes, is_out_of_memory
from .engine import ort, session_options
from .identity_graph import identity_graph


@dataclass(frozen=True)
class Stretch:
    """So many elements at an address of the device."""

    address: int
    count: int


@cache
def _turn_of(device: str, index: int) -> threading.Lock:
    """The one lock of a device that does one thing at a time: DirectML's copies to and from it share what they use."""
    return threading.Lock()


class DeviceStore:
    """Where a session on a device keeps what it computes with."""

    def __init__(
        self,
        session: Any,
        layout: CacheLayout,
        *,
        device: str,
        index: int = 0,
        is_addressable: bool = True,
        records: bool = False,
        room: DeviceRoom | None = None,
    ):
        """What a session's device offers.

        Args:
            session: ONNX Runtime's.
            layout: of the session's caches.
            device: ONNX Runtime's name of the device, such as `cuda`, `dml` or `cpu`.
            index: the device's number.
            is_addressable: its addresses can be counted with. Those of `dml` are names of whole tensors.
            records: the session records steps. What a recording uses between its nodes is not reserved for it, and
                nobody may allocate while it is made.
            room: tells what is free, for errors; None: nobody knows.
        """
        self.device = device
        self.index = index
        self.is_addressable = is_addressable
        # Held while the device computes, allocates or copies, where it does one of these at a time.
        self.turn: AbstractContextManager[Any] = nullcontext()
        if records or not is_addressable:
            self.turn = threading.Lock() if is_addressable else _turn_of(device, index)
        self._session = session
        self._layout = layout
        self._room = room
        self._copier: Any = None
        self._opening = threading.Lock()

    def allocate(self, shape: Sequence[int], element_type: int, rows: int = 1) -> Any:
        """A tensor on the device, as an OrtValue; what is in it is not defined.

        Args:
            shape: of the tensor.
            element_type: by ONNX's number (onnx.TensorProto.DataType).
            rows: of the cache that it is for, or is bound beside.

        Raises:
            MemoryLimitError: the device has no room for it; the largest context that fits is named.
        """
        own = getattr(self._session, "create_ortvalue_from_shape_and_type", None) if self.is_addressable else None
        common = ort.OrtValue.ortvalue_from_shape_and_type
        for place in (own, common) if own else (common,):
            try:
                with self.turn:
                    return place(list(shape), element_type, self.device, self.index)
            except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
                if self._room is not None and (isinstance(error, MemoryError) or is_out_of_memory(error)):
                    raise self._room.exceeded(asked_bytes(error), rows) from error
                if place is common:
                    raise
        raise AssertionError

    def copy_stretches(self, sources: Sequence[Stretch], targets: Sequence[Stretch]) -> None:
        """Copy elements of caches, for every tensor of a cache from one address to another; stretches don't overlap."""
        binding = self._copying()
        element_type = self._layout.element_type
        for tensor, (source, target) in enumerate(zip(sources, targets, strict=True)):
            place = (self.device, self.index, element_type, [source.count])
            binding.bind_input(f"from_{tensor}", *place, source.address)
            binding.bind_output(f"to_{tensor}", *place, target.address)
        with self.turn:
            self._copier.run_with_iobinding(binding)

    def copy_tensors(self, sources: Sequence[Any], targets: Sequence[Any]) -> None:
        """Copy every tensor of a cache to another one of its shape."""
        binding = self._copying()
        for tensor, (source, target) in enumerate(zip(sources, targets, strict=True)):
            binding.bind_ortvalue_input(f"from_{tensor}", source)
            binding.bind_ortvalue_output(f"to_{tensor}", target)
        with self.turn:
            self._copier.run_with_iobinding(binding)

    def cut(self, values: Sequence[Any], length: int) -> list[Any]:
        """The first tokens of every tensor [1, kv_heads, longer, head_size] of a cache, as new tensors."""
        shapes = [value.shape() for value in values]
        shorter = [self.allocate((1, heads, length, size), self._layout.element_type) for _, heads, _, size in shapes]
        for head in range(max(heads for _, heads, _, _ in shapes) if length else 0):
            self.copy_stretches(
                [self._head(value, shape, head, length) for value, shape in zip(values, shapes, strict=True)],
                [self._head(value, shape, head, length) for value, shape in zip(shorter, shapes, strict=True)],
            )
        return shorter

    def _head(self, value: Any, shape: Sequence[int], head: int, length: int) -> Stretch:
        _, heads, _, size = shape
        before = min(head, heads - 1) * value.shape()[2] * size
        address = value.data_ptr() + before * self._layout.dtype.itemsize
        return Stretch(address, length * size if head < heads else 0)

    def _copying(self) -> Any:
        with self._opening:
            if self._copier is None:
                self._copier = self._open_copier()
        return self._copier.io_binding()

    def _open_copier(self) -> Any:
        graph = identity_graph(self._layout.tensors, self._layout.element_type, 1 if self.is_addressable else 4)
        options = {} if self.device == "cpu" else {"device_id": str(self.index)}
        providers = [(self._session.get_providers()[0], options)]
        return ort.InferenceSession(graph, session_options(1, None), providers=providers)
