"""Writes a graph node by node: names, constants and the bodies of If and Loop are taken care of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Constant = bool | int | float | Sequence[int] | Sequence[float] | np.ndarray[Any, Any]

INT64, FLOAT, DOUBLE, BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BOOL
UINT32, UINT64 = TensorProto.UINT32, TensorProto.UINT64


class GraphBuilder:
    """A graph in the making. A value is its name; a subgraph reads the values of the graphs around it by theirs."""

    def __init__(self, name: str, outer: GraphBuilder | None = None):
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._root: GraphBuilder = self if outer is None else outer._root
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}  # of the root
        self._count = 0  # of the root

    def subgraph(self, name: str) -> GraphBuilder:
        """A graph inside this one, for a branch or a loop's body."""
        return GraphBuilder(name, self)

    def fresh(self, stem: str) -> str:
        """A name that no other value of the whole model has, nor one of a step graph (which has no slashes)."""
        self._root._count += 1
        return f"{self._root.name}/{stem}_{self._root._count}"

    def input(self, name: str, element: int, shape: Sequence[int | str | None] | None) -> str:
        """An input; a shape of None says nothing of it."""
        self.inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def output(self, value: str, element: int, shape: Sequence[int | str | None] | None) -> None:
        """Give a value out under its name."""
        self.outputs.append(helper.make_tensor_value_info(value, element, shape))

    def constant(self, value: Constant, dtype: Any = None) -> str:
        """A constant of the whole model, written once; Python's integers are int64 and its floats float32."""
        if dtype is None and not isinstance(value, np.ndarray):
            first = value if isinstance(value, bool | int | float) else next(iter(value), 0)
            dtype = {bool: np.bool_, int: np.int64, float: np.float32}[type(first)]
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.tobytes(), array.shape)
        root = self._root
        if key not in root._constants:
            root._constants[key] = self.fresh("constant")
            root.initializers.append(numpy_helper.from_array(array, root._constants[key]))
        return root._constants[key]

    def node(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node of one output, which may be given a name."""
        return self.nodes_of(op, inputs, [name or self.fresh(op.lower())], **attributes)[0]

    def nodes_of(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> list[str]:
        """Append a node with these outputs; an output that nobody reads is ""."""
        node_name = self.fresh(op)
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), name=node_name, **attributes))
        return list(outputs)

    def branch(
        self, condition: str, then: Callable[[GraphBuilder], Values], otherwise: Callable[[GraphBuilder], Values]
    ) -> list[str]:
        """An If: only what one of the two builds is computed; both give as many values, of the same element types."""
        attributes = {}
        count = 0
        for key, build in (("then_branch", then), ("else_branch", otherwise)):
            inner = self.subgraph(self.fresh(key))
            values = build(inner)
            for value, element in values:
                if all(value not in node.output for node in inner.nodes):
                    value = inner.node("Identity", value)  # a branch gives out what it computes only
                inner.output(value, element, None)
            attributes[key] = inner.graph()
            count = len(values)
        return self.nodes_of("If", [condition], [self.fresh("if") for _ in range(count)], **attributes)

    def graph(self) -> onnx.GraphProto:
        """The graph as it is now."""
        return helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.initializers)


Values = Sequence[tuple[str, int]]  # names and element types
