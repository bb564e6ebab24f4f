"""What graph rewrites share: looking at a graph and putting something else into it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

CONTRIB = "com.microsoft"  # the domain of ONNX Runtime's own operators
CONTRIB_VERSION = 1


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes `value`, when it is of one of these types."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in op_types else None


def only_used_once(value: ir.Value) -> bool:
    """Whether a single node reads `value`, and the graph does not give it out: it may go with that node."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def is_weight(value: ir.Value | None, dimensions: int = 1) -> bool:
    """Whether `value` is an initializer of so many dimensions."""
    return value is not None and value.is_initializer() and value.shape is not None and len(value.shape) == dimensions


def scalar(value: ir.Value | None) -> float | None:
    """The number that a constant of one element holds."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def other_input(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The input of a two-input node that is not `value`."""
    first, second = node.inputs
    return second if first is value else first


def read_weights(graph: ir.Graph, name: str) -> NDArray[np.float32]:
    """A copy of an initializer's numbers in float32; the file it lies in is not kept mapped, which costs memory."""
    tensor = graph.initializers[name].const_value
    assert tensor is not None
    weights = np.array(tensor.numpy(), np.float32)
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return weights


def output_width(value: ir.Value) -> int:
    """Columns of a matrix that is an initializer, elements of a vector."""
    assert value.shape is not None
    return int(value.shape[-1])  # type: ignore[arg-type]


def replace(
    model: ir.Model, old: Sequence[ir.Node], new: Sequence[ir.Node], values: dict[ir.Value, ir.Value], *, after: ir.Node
) -> None:
    """Put the nodes `new` after a node and take `old` out; readers of a key of `values` read its value instead."""
    ir.convenience.replace_nodes_and_values(model.graph, after, old, new, list(values), list(values.values()))
    if any(node.domain == CONTRIB for node in new):
        model.opset_imports.setdefault(CONTRIB, CONTRIB_VERSION)


def integers(model: ir.Model, name: str, numbers: Sequence[int]) -> ir.Value:
    """An initializer int64 [len(numbers)] of that name, made once."""
    if name in model.graph.initializers:
        return model.graph.initializers[name]
    return add_initializer(model, name, ir.tensor(np.array(numbers, np.int64), name=name))


def add_initializer(model: ir.Model, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A new initializer."""
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value
