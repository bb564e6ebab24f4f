"""The residual stream of a graph: which values leave the blocks, found by structure and by no node's name.

A residual sum adds a branch to the very value that the branch was computed from: one operand is an ancestor of the
other. Where attention and MLP stand side by side, the second branch is added to the first one's sum: both begin at the
value that the first was added to. From the logits back, each sum leads to the one before through that operand; the
layer is told by how many of the attentions (the nodes that make `present.{i}.key`) lie behind a sum. So the same block
is found in full-precision and quantized, fused and standard graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from ..runtime.manifest import PLAIN_GRAPH, GraphRecord
from ..runtime.session import Session
from ..runtime.settings import DEFAULT_SETTINGS, SessionSettings

_SKIP_NORMS = {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}
_SKIP_NORM_SUM = 3  # the output of a skip-norm that is its sum
_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "Cast", "Identity"}


def residual_session(
    graph: Path, settings: SessionSettings = DEFAULT_SETTINGS, record: GraphRecord = PLAIN_GRAPH
) -> tuple[Session, list[str]]:
    """Open a graph with the residual sums as outputs for `Session.capture`.

    Args:
        graph: the ONNX file, its weights beside it.
        settings: where it runs.
        record: what the manifest says of it.

    Returns:
        The session, and the name of each block's output, [1, sequence, hidden], layer by layer.
    """
    model = ir.load(graph)
    values = find_residuals(model)
    outputs = model.graph.outputs
    for value in values:
        if not value.is_graph_output():
            value.type = value.type or _type_of_sum(value) or outputs[0].type
            outputs.append(value)
    content = ir.to_proto(model).SerializeToString()
    session = Session.open(content, settings, record=record, weights_directory=graph.parent)
    return session, [str(value.name) for value in values]


def find_residuals(model: ir.Model) -> list[ir.Value]:
    """The residual sum after each block's MLP (before the norm, where norms come after), layer by layer.

    A skip-norm gets its sum as an output where it had none. Empty when the graph is not built of such sums.
    """
    stream = _Stream(model.graph)
    by_layer: dict[int, ir.Node] = {}
    value: ir.Value | None = next(output for output in model.graph.outputs if output.name == "logits")
    while value is not None and (layers := stream.layers_behind(value)):
        node = value.producer()
        assert node is not None  # only nodes have attentions behind them
        skip = stream.skip_operand(node)
        if skip is not None:
            by_layer.setdefault(layers - 1, node)  # the last sum of a block comes first
        value = skip or stream.main_input(node)
    if sorted(by_layer) != list(range(stream.layer_count)):
        return []
    return [_sum_output(by_layer[layer]) for layer in range(stream.layer_count)]


class _Stream:
    """What lies behind each value: sets of nodes, as bits by their place in the graph."""

    def __init__(self, graph: ir.Graph):
        self._place: dict[ir.Node, int] = {node: place for place, node in enumerate(graph)}
        self._behind: dict[ir.Value, int] = {}
        for node, place in self._place.items():
            behind = 1 << place
            for value in node.inputs:
                behind |= self._behind.get(value, 0) if value is not None else 0
            self._behind |= dict.fromkeys(node.outputs, behind)
        outputs = {output.name: output for output in graph.outputs}
        self.layer_count = sum(f"present.{layer}.key" in outputs for layer in range(len(outputs)))
        producers = (outputs[f"present.{layer}.key"].producer() for layer in range(self.layer_count))
        self._attentions = sum(1 << self._place[node] for node in producers if node is not None)

    def layers_behind(self, value: ir.Value) -> int:
        """How many attentions the value was computed from."""
        return (self._behind.get(value, 0) & self._attentions).bit_count()

    def skip_operand(self, node: ir.Node) -> ir.Value | None:
        """The operand of a residual sum that the other one was computed from; None for any other node."""
        if node.op_type != "Add" and node.op_type not in _SKIP_NORMS:
            return None
        first, second = (_before_conversions(value) for value in node.inputs[:2])
        for skip, branch in ((first, second), (second, first)):
            if self._is_behind(skip, branch):
                return skip
        for inner, branch in ((first, second), (second, first)):
            maker = None if inner is None else inner.producer()
            start = None if maker is None else self.skip_operand(maker)
            if self._is_behind(start, branch):
                return start
        return None

    def _is_behind(self, origin: ir.Value | None, value: ir.Value | None) -> bool:
        """Whether a value was computed from another one."""
        maker = None if origin is None else origin.producer()
        return maker is not None and value is not None and bool(self._behind.get(value, 0) >> self._place[maker] & 1)

    def main_input(self, node: ir.Node) -> ir.Value | None:
        """The input with the most attentions behind it, and of several the one that the others were computed from."""
        values = [value for value in node.inputs if value is not None and value.producer() is not None]
        # What others were computed from was computed before them.
        return min(
            values, key=lambda value: (-self.layers_behind(value), self._behind[value].bit_length()), default=None
        )


def _before_conversions(value: ir.Value | None) -> ir.Value | None:
    while value is not None and (node := value.producer()) is not None and node.op_type in _CONVERSIONS:
        value = node.inputs[0]
    return value


def _type_of_sum(value: ir.Value) -> ir.TypeProtocol | None:
    """As the operands' type, which a graph in half precision notes: its logits may be of another."""
    node = value.producer()
    operands = () if node is None else node.inputs[:2]
    return next((operand.type for operand in operands if operand is not None and operand.type is not None), None)


def _sum_output(node: ir.Node) -> ir.Value:
    if node.op_type not in _SKIP_NORMS:
        return node.outputs[0]
    if len(node.outputs) <= _SKIP_NORM_SUM:
        missing: Sequence[int] = range(len(node.outputs), _SKIP_NORM_SUM)
        node.resize_outputs(_SKIP_NORM_SUM + 1)
        for index in missing:
            node.outputs[index].name = ""  # mean and deviation
    value = node.outputs[_SKIP_NORM_SUM]
    value.name = value.name or f"{node.outputs[0].name}.sum"
    return value
