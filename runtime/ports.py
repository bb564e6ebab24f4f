"""Ports: arrays that a graph reads or writes at every step, kept in one place for all steps and bound once.

Its numpy arrays are the computer's side of a port. In the computer's memory they are what the graph itself reads and
writes; those of a device are sent there and fetched from there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .device_store import DeviceStore
from .engine import ort

Forms = Mapping[str, tuple[Sequence[int], DTypeLike]]  # by the name of the graph's input or output: shape and type

_ALIGNMENT = 256  # bytes, as CUDA's own allocations have
_UINT8 = 2  # onnx.TensorProto.DataType
_ELEMENT_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int64): 7, np.dtype(np.float16): 10}


class Port(ABC):
    """Some arrays by the names of the graph's inputs or outputs, all zeros at first."""

    arrays: dict[str, NDArray[Any]]

    @abstractmethod
    def bind_input(self, binding: Any, name: str, shape: Sequence[int] | None = None) -> None:
        """Bind an array to be read; with a shape, its first elements, in the order in which they lie."""

    @abstractmethod
    def bind_output(self, binding: Any, name: str) -> None:
        """Bind an array to be written."""

    @abstractmethod
    def send(self) -> None:
        """Let the graph see what was written into the arrays."""

    @abstractmethod
    def fetch(self) -> None:
        """Let the arrays hold what the graph wrote."""


class HostPort(Port):
    """Arrays that the graph reads and writes itself."""

    def __init__(self, forms: Forms):
        self.arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in forms.items()}

    def bind_input(self, binding: Any, name: str, shape: Sequence[int] | None = None) -> None:
        """As `Port.bind_input`."""
        array = self.arrays[name]
        if shape is not None:
            array = array.reshape(-1)[: int(np.prod(shape))].reshape(shape)
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))

    def bind_output(self, binding: Any, name: str) -> None:
        """As `Port.bind_output`."""
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(self.arrays[name]))

    def send(self) -> None:
        """As `Port.send`: nothing to do."""

    def fetch(self) -> None:
        """As `Port.fetch`: nothing to do."""


class DevicePort(Port):
    """Arrays that lie on a device in one stretch, so that one copy sends or fetches them all."""

    def __init__(self, store: DeviceStore, forms: Forms):
        self._store = store
        self._offsets: dict[str, int] = {}
        size = 0
        for name, (shape, dtype) in forms.items():
            self._offsets[name] = size
            size += -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
        self._copy = np.zeros(size, np.uint8)
        self._value = store.allocate([size], _UINT8)
        with store.turn:
            self._value.update_inplace(self._copy)
        self.arrays = {}
        for name, (shape, dtype) in forms.items():
            start, length = self._offsets[name], int(np.prod(shape)) * np.dtype(dtype).itemsize
            self.arrays[name] = self._copy[start : start + length].view(dtype).reshape(shape)

    def bind_input(self, binding: Any, name: str, shape: Sequence[int] | None = None) -> None:
        """As `Port.bind_input`."""
        binding.bind_input(name, *self._place(name, shape))

    def bind_output(self, binding: Any, name: str) -> None:
        """As `Port.bind_output`."""
        binding.bind_output(name, *self._place(name))

    def _place(self, name: str, shape: Sequence[int] | None = None) -> tuple[Any, ...]:
        array = self.arrays[name]
        address = self._value.data_ptr() + self._offsets[name]
        element_type = _ELEMENT_TYPES[array.dtype]
        return self._store.device, self._store.index, element_type, list(shape or array.shape), address

    def send(self) -> None:
        """As `Port.send`."""
        self._value.update_inplace(self._copy)

    def fetch(self) -> None:
        """As `Port.fetch`."""
        self._copy[:] = self._value.numpy()


class TensorPort(Port):
    """Arrays that lie on a device each for itself, where addresses can't be counted with."""

    def __init__(self, store: DeviceStore, forms: Forms):
        self.arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in forms.items()}
        self._values = {
            name: store.allocate(array.shape, _ELEMENT_TYPES[array.dtype]) for name, array in self.arrays.items()
        }
        with store.turn:
            self.send()

    def bind_input(self, binding: Any, name: str, shape: Sequence[int] | None = None) -> None:
        """As `Port.bind_input`, the whole array."""
        if shape is not None and tuple(shape) != self.arrays[name].shape:
            raise ValueError(f"{name} {list(shape)} is a part of {list(self.arrays[name].shape)}: it is bound whole")
        binding.bind_ortvalue_input(name, self._values[name])

    def bind_output(self, binding: Any, name: str) -> None:
        """As `Port.bind_output`."""
        binding.bind_ortvalue_output(name, self._values[name])

    def send(self) -> None:
        """As `Port.send`."""
        for name, array in self.arrays.items():
            self._values[name].update_inplace(array)

    def fetch(self) -> None:
        """As `Port.fetch`."""
        for name, array in self.arrays.items():
            array[...] = self._values[name].numpy()


def new_port(store: DeviceStore | None, forms: Forms) -> Port:
    """A port in the memory of a device; None: in the computer's own."""
    if store is None or not forms:
        return HostPort(forms)
    return DevicePort(store, forms) if store.is_addressable else TensorPort(store, forms)
