"""Arrays: writes a graph as one writes numpy: one-dimensional arrays, their operators, a loop.

    arrays = Arrays(GraphBuilder("example"))
    codes = arrays.input("prompt", np.uint8).cast(np.int32)
    starts = (codes < 0x80) | (codes >= 0xC0)
    arrays.output("starts", arrays.positions(codes)[starts])

Every step is one node of the ONNX domain, or two; numbers and numpy arrays become constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from .building import GraphBuilder

Number = int | bool


class Array:
    """A one-dimensional array that a graph computes (or a number, where a function says so)."""

    __slots__ = ("arrays", "dtype", "value")
    __hash__ = None  # type: ignore[assignment]  # as numpy's: == gives an array

    def __init__(self, arrays: Arrays, value: str, dtype: DTypeLike):
        self.arrays, self.value, self.dtype = arrays, value, np.dtype(dtype)

    def __add__(self, other: Array | Number) -> Array:
        return self._by("Add", other)

    def __sub__(self, other: Array | Number) -> Array:
        return self._by("Sub", other)

    def __mul__(self, other: Array | Number) -> Array:
        return self._by("Mul", other)

    def __floordiv__(self, other: Array | Number) -> Array:
        """For numbers that are not negative: ONNX rounds towards zero."""
        return self._by("Div", other)

    def __mod__(self, other: Array | Number) -> Array:
        return self._by("Mod", other)

    def __lt__(self, other: Array | Number) -> Array:
        return self._by("Less", other, bool)

    def __le__(self, other: Array | Number) -> Array:
        return self._by("LessOrEqual", other, bool)

    def __gt__(self, other: Array | Number) -> Array:
        return self._by("Greater", other, bool)

    def __ge__(self, other: Array | Number) -> Array:
        return self._by("GreaterOrEqual", other, bool)

    def __eq__(self, other: Array | Number) -> Array:  # type: ignore[override]
        return self._by("Equal", other, bool)

    def __ne__(self, other: Array | Number) -> Array:  # type: ignore[override]
        return ~(self == other)

    def __and__(self, other: Array) -> Array:
        return self._by("And", other)

    def __or__(self, other: Array) -> Array:
        return self._by("Or", other)

    def __invert__(self) -> Array:
        return self.arrays.node("Not", [self], bool)

    def __getitem__(self, which: Array | slice) -> Array:
        """As numpy: by a mask, by indices (negative ones count from the end), or a slice with a step of one."""
        if isinstance(which, slice):
            start = 0 if which.start is None else which.start
            stop = np.iinfo(np.int64).max if which.stop is None else which.stop
            return self.arrays.node("Slice", [self, np.array([start]), np.array([stop])], self.dtype)
        if which.dtype == np.bool_:
            return self.arrays.node("Compress", [self, which], self.dtype, axis=0)
        return self.arrays.node("Gather", [self, which], self.dtype)

    def cast(self, dtype: DTypeLike) -> Array:
        """The same numbers in another type."""
        return self.arrays.node("Cast", [self], dtype, to=_element(dtype))

    def cumsum(self) -> Array:
        """Sums up to and with each element; of a mask, int32: how many are set so far."""
        numbers = self.cast(np.int32) if self.dtype == np.bool_ else self
        return self.arrays.node("CumSum", [numbers, np.array(0, np.int64)], numbers.dtype)

    def previous(self, first: Number) -> Array:
        """At each place what stands one before it; `first` at the first. For arrays that are not empty."""
        return self.arrays.join([self._number([first]), self[:-1]])

    def next(self, last: Number) -> Array:
        """At each place what stands one behind it; `last` at the last. For arrays that are not empty."""
        return self.arrays.join([self[1:], self._number([last])])

    def put(self, indices: Array, values: Array | Number, reduction: str = "none") -> Array:
        """A copy with values at some places; for indices that repeat, `reduction`: "add", "min" or "max"."""
        if not isinstance(values, Array):
            values = self.arrays.filled(indices, values, self.dtype)
        return self.arrays.node("ScatterElements", [self, indices, values], self.dtype, axis=0, reduction=reduction)

    def any(self) -> Array:
        """Whether a mask has anything set: a number."""
        largest = self.arrays.node("ReduceMax", [self.arrays.join([self.cast(np.int32), _zero])], np.int32, keepdims=0)
        return largest > 0

    def at_most(self, limit: Array | Number) -> Array:
        """Element by element the smaller one."""
        return self._by("Min", limit)

    def _by(self, op_type: str, other: Array | Number, dtype: DTypeLike | None = None) -> Array:
        right = other if isinstance(other, Array) else self._number(other)
        return self.arrays.node(op_type, [self, right], self.dtype if dtype is None else dtype)

    def _number(self, number: Number | list[Number]) -> NDArray[Any]:
        return np.array(number, self.dtype)


_zero = np.zeros(1, np.int32)


class Arrays:
    """A graph in the making, or the body of a loop in one."""

    def __init__(self, builder: GraphBuilder):
        self.builder = builder

    def node(self, op_type: str, inputs: Sequence[Array | NDArray[Any]], dtype: DTypeLike, **attributes: Any) -> Array:
        """The result of one operator."""
        values = [given.value if isinstance(given, Array) else self.builder.constant(given) for given in inputs]
        return Array(self, self.builder.node(op_type, *values, **attributes), dtype)

    def input(self, name: str, dtype: DTypeLike) -> Array:
        """An input [n] of the graph."""
        return Array(self, self.builder.input(name, _element(dtype), [f"{name}_length"]), dtype)

    def output(self, name: str, array: Array) -> None:
        """Give an array out."""
        self.builder.node("Identity", array.value, name=name)
        self.builder.output(name, _element(array.dtype), [f"{name}_length"])

    def table(self, numbers: NDArray[Any]) -> Array:
        """A constant."""
        return Array(self, self.builder.constant(numbers), numbers.dtype)

    def seen(self, array: Array) -> Array:
        """An array of an outer graph, to be read here."""
        return Array(self, array.value, array.dtype)

    def join(self, parts: Sequence[Array | NDArray[Any]]) -> Array:
        """One after the other."""
        return self.node("Concat", parts, next(part.dtype for part in parts), axis=0)

    def where(self, mask: Array, chosen: Array | Number, other: Array | Number) -> Array:
        """Element by element; one of the two at least is an array."""
        dtype = next(part.dtype for part in (chosen, other) if isinstance(part, Array))
        parts = [part if isinstance(part, Array) else np.array(part, dtype) for part in (chosen, other)]
        return self.node("Where", [mask, *parts], dtype)

    def positions(self, like: Array) -> Array:
        """0, 1, 2 … int32, as many as an array has elements."""
        size = self.node("Size", [like], np.int64).cast(np.int32)
        return self.node("Range", [np.array(0, np.int32), size, np.array(1, np.int32)], np.int32)

    def filled(self, like: Array, number: Number, dtype: DTypeLike) -> Array:
        """One number, as often as an array has elements."""
        shape = self.node("Shape", [like], np.int64)
        return self.node("ConstantOfShape", [shape], dtype, value=_tensor(number, dtype))

    def repeated(self, lengths: Array) -> tuple[Array, Array]:
        """For each element of what comes of repeating places so many times each: the place, and which time it is."""
        some = lengths > 0
        places, lengths = self.positions(lengths)[some], lengths[some]
        total = self.node("ReduceSum", [lengths], lengths.dtype, keepdims=1).cast(np.int64)
        starts = lengths.cumsum() - lengths
        zeros = self.node("ConstantOfShape", [total], np.int32, value=_tensor(0, np.int32))
        order = zeros.put(starts, 1).cumsum() - 1
        return places[order], self.positions(order) - starts[order]

    def loop(
        self,
        condition: Array,
        carried: Sequence[Array],
        step: Callable[[Arrays, list[Array]], tuple[Array, list[Array]]],
    ) -> list[Array]:
        """While the condition holds, carry arrays (whose lengths may change) through a step.

        Args:
            condition: a number: whether to begin at all.
            carried: what goes into the first turn.
            step: writes the body: from the body's graph and what is carried, whether to go on and what to carry.

        Returns:
            What the last turn left, or `carried` when there was none.
        """
        body = Arrays(self.builder.subgraph(self.builder.fresh("body")))
        for stem, dtype in (("turn", np.int64), ("goes_on", np.bool_)):
            body.builder.input(body.builder.fresh(stem), _element(dtype), [])
        held = [
            Array(body, body.builder.input(body.builder.fresh("held"), _element(array.dtype), None), array.dtype)
            for array in carried
        ]
        goes_on, results = step(body, held)
        for place, array in enumerate((goes_on, *results)):
            value = body.node("Identity", [array], array.dtype).value
            body.builder.output(value, _element(array.dtype), [] if place == 0 else None)
        inputs = [self.builder.constant(np.iinfo(np.int64).max), condition.value, *(array.value for array in carried)]
        names = [self.builder.fresh("left") for _ in carried]
        self.builder.nodes_of("Loop", inputs, names, body=body.builder.graph())
        return [Array(self, value, array.dtype) for value, array in zip(names, carried, strict=True)]


def _tensor(number: Number, dtype: DTypeLike) -> TensorProto:
    return numpy_helper.from_array(np.array([number], dtype))


def _element(dtype: DTypeLike) -> int:
    """ONNX's number of an element type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
