"""Full precision to half precision and back: one converter for every graph of this house, whoever changes it after.

What computes in float32 still is told by `graphs.islands`; at its borders stand Casts. The graph's cache is in the half
type; its logits are in float16, or in float32 where the half type is bfloat16, which numpy does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from ..runtime.errors import ExportError
from .choices import add_choices, drop_choices
from .islands import float32_nodes
from .targets import Dtype
from .value_types import value_types

HALVES: dict[Dtype, ir.DataType] = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
FLOAT16_LARGEST = 65504

_FLOAT = ir.DataType.FLOAT
_FLOATS = (_FLOAT, *HALVES.values())
# Inputs that kernels want in float32 beside a query of any type: the scales of a cache in 8 bits.
_FLOAT32_INPUTS = {"GroupQueryAttention": (12, 13)}
_HALF_COPY = ".half"  # behind the name of an initializer that both sides of a border read


def to_half(model: ir.Model, dtype: Dtype, *, wide_residual: bool = False) -> None:
    """Rewrite a float32 graph for half precision.

    Args:
        model: is changed. Its weights are converted when they are read, one at a time; one that the type can't hold
            raises ExportError then, with its name.
        dtype: `float16` or `bfloat16`; with `float32` nothing is done.
        wide_residual: keep the residual stream in float32: sums of many layers lose less, and may be larger.
    """
    if dtype == "float32":
        return
    chooses = drop_choices(model)
    common.TopologicalSortPass()(model)
    _Lowering(model.graph, HALVES[dtype], wide_residual=wide_residual).run()
    if chooses:
        add_choices(model)


def to_float32(model: ir.Model) -> None:
    """Take a graph that `to_half` made back to float32: the same nodes by the same names, the weights as rounded."""
    graph = model.graph
    chooses = drop_choices(model)
    types = value_types(graph)
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Cast" else None
        if source is not None and types.get(source) in _FLOATS and types[node.outputs[0]] in _FLOATS:
            _bypass(graph, node, source)
    for name in list(graph.initializers):
        value = graph.initializers[name]
        original = graph.initializers.get(name.removesuffix(_HALF_COPY))
        if name.endswith(_HALF_COPY) and original is not None:
            ir.convenience.replace_all_uses_with(value, original)
            del graph.initializers[name]
        elif value.dtype in HALVES.values():
            _convert(value, _FLOAT)
    for value in (*graph.inputs, *graph.outputs):
        if value.dtype in HALVES.values():
            value.type = ir.TensorType(_FLOAT)
    _write_types(graph)
    if chooses:
        add_choices(model)


class _Lowering:
    """One graph on its way to half precision."""

    def __init__(self, graph: ir.Graph, half: ir.DataType, *, wide_residual: bool) -> None:
        self._graph = graph
        self._half = half
        self._old = value_types(graph)
        self._in_float32 = float32_nodes(graph, self._old, half, wide_residual=wide_residual)
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        """Weights first, then what is computed of them, and last what the graph gives out."""
        nodes = list(self._graph)
        for value in list(self._graph.initializers.values()):
            if self._is_float(value):
                self._convert_weight(value)
        new = {value: self._half for value in self._graph.inputs if self._is_float(value)}
        for value in new:
            value.type = ir.TensorType(self._half)
        for node in nodes:  # in order: what a node reads has its new type already
            for index, read in self._computed_inputs(node):
                wanted = self._wanted(node, index)
                if new[read] != wanted:
                    node.replace_input_with(index, self._cast(read, wanted))
            kind = _FLOAT if node in self._in_float32 else self._half
            new |= {value: kind for value in node.outputs if self._is_float(value)}
        for index, value in enumerate(self._graph.outputs):
            if self._is_float(value):
                self._give_out(index, value, new[value])
        _write_types(self._graph)

    def _is_float(self, value: ir.Value | None) -> bool:
        return value is not None and self._old.get(value) == _FLOAT

    def _wanted(self, node: ir.Node, index: int) -> ir.DataType:
        """The type in which a node reads its input of that index."""
        kept = node in self._in_float32 or index in _FLOAT32_INPUTS.get(node.op_type, ())
        return _FLOAT if kept else self._half

    def _computed_inputs(self, node: ir.Node) -> Iterator[tuple[int, ir.Value]]:
        for index, value in enumerate(node.inputs):
            if value is not None and self._is_float(value) and not value.is_initializer():
                yield index, value

    def _convert_weight(self, value: ir.Value) -> None:
        """Where both types are read, the weight stays as it is and half precision reads a copy."""
        uses = list(value.uses())
        of_half = [use for use in uses if self._wanted(use.node, use.idx) == self._half]
        if not of_half:
            return
        if len(of_half) == len(uses):
            _convert(value, self._half)
            return
        copy = ir.Value(
            name=f"{value.name}{_HALF_COPY}", type=value.type, shape=value.shape, const_value=value.const_value
        )
        self._graph.register_initializer(copy)
        _convert(copy, self._half)
        for use in of_half:
            use.node.replace_input_with(use.idx, copy)

    def _cast(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """The value in another type, by one Cast for all who read it so."""
        if (value, wanted) not in self._casts:
            cast = ir.node("Cast", [value], {"to": int(wanted)})
            maker = value.producer()
            if maker is None:
                self._graph.insert_before(self._graph[0], cast)
            else:
                self._graph.insert_after(maker, cast)
            self._casts[value, wanted] = cast.outputs[0]
        return self._casts[value, wanted]

    def _give_out(self, index: int, value: ir.Value, found: ir.DataType) -> None:
        """The cache in half precision, logits in a type that numpy knows, anything else as it was computed."""
        wanted = found
        if str(value.name).startswith("present"):
            wanted = self._half
        elif value.name == "logits":
            wanted = self._half if self._half == ir.DataType.FLOAT16 else _FLOAT
        if found != wanted:
            name, value.name = value.name, f"{value.name}.computed"
            cast = ir.node("Cast", [value], {"to": int(wanted)})
            self._graph.append(cast)
            cast.outputs[0].name = name
            cast.outputs[0].shape = value.shape
            value.shape = None
            self._graph.outputs[index] = cast.outputs[0]
        self._graph.outputs[index].type = ir.TensorType(wanted)


def _bypass(graph: ir.Graph, cast: ir.Node, source: ir.Value) -> None:
    """Let the readers of a Cast read its input; where the graph gives it out, that takes its place and name."""
    result = cast.outputs[0]
    for index, value in enumerate(graph.outputs):
        if value is result:
            name, result.name = result.name, None
            source.name, source.shape = name, result.shape
            graph.outputs[index] = source
    ir.convenience.replace_all_uses_with(result, source)
    graph.remove(cast, safe=True)


def _convert(value: ir.Value, wanted: ir.DataType) -> None:
    """Give an initializer another type; its numbers are converted when they are read."""
    tensor = value.const_value
    assert tensor is not None
    value.type = ir.TensorType(wanted)
    value.const_value = ir.LazyTensor(
        partial(_converted, str(value.name), tensor, wanted),
        dtype=wanted,
        shape=ir.Shape(tensor.shape.numpy()),
        name=value.name,
    )


def _converted(name: str, tensor: ir.TensorProtocol, wanted: ir.DataType) -> ir.TensorProtocol:
    """The numbers of a tensor in another type, rounded to the nearest even."""
    numbers: NDArray[np.generic] = tensor.numpy()
    with np.errstate(over="ignore"):
        result = numbers.astype(wanted.numpy())
    if wanted == ir.DataType.FLOAT16 and np.isinf(result).sum() > np.isinf(numbers).sum():
        largest = np.abs(numbers[np.isfinite(numbers)]).max()
        raise ExportError(
            f"{name} holds {largest:.3g}, and float16 ends at {FLOAT16_LARGEST}: export --dtype bfloat16 or float32"
        )
    del numbers
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()  # the file that it lies in is not kept mapped, which costs memory
    return ir.Tensor(result, dtype=wanted, name=name)


def _write_types(graph: ir.Graph) -> None:
    """Note the types that inner values have now, since a wrong one is refused when the graph is loaded."""
    types = value_types(graph)
    for node in graph:
        for value in node.outputs:
            found = types.get(value, ir.DataType.UNDEFINED)
            if not value.is_graph_output():
                value.type = None if found == ir.DataType.UNDEFINED else ir.TensorType(found)
