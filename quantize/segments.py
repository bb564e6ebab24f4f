"""Reading a text through a graph piece by piece, so that only the weights of one piece are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..graphs.editing import CONTRIB, CONTRIB_VERSION
from ..runtime.session import PlainGraph

Values = dict[str, NDArray[Any]]
_EMBEDDING = "token_embedding.weight"


@dataclass(frozen=True)
class Change:
    """A node to run in place of the one with its name, and the initializers that it needs."""

    node: onnx.NodeProto
    initializers: Sequence[onnx.TensorProto]


@dataclass(frozen=True)
class _Segment:
    nodes: Sequence[int]  # to run, in order
    streamed: set[int]  # those of the stream
    outputs: Sequence[str]  # what is asked for and what crosses
    crossing: set[str]  # what it makes and a later segment reads
    read_later: set[str]  # what any later segment reads


class SegmentedReading:
    """Runs windows of text through a graph in several segments; between two, only what crosses is kept.

    What crosses is the residual stream: float32 [1, window, hidden] per window. Whatever does not depend on the token
    embedding (row lengths, positions) is cheap and computed anew in every segment.
    """

    def __init__(
        self, model: ir.Model, directory: Path, windows: Sequence[NDArray[np.int64]], threads: int | None = None
    ):
        """Begin before the first node.

        Args:
            model: the graph with past key values, whose weights lie in `directory`.
            windows: token ids int64 [window] each.
            threads: threads inside an operator.
        """
        self._proto = ir.to_proto(model)
        self._nodes = list(self._proto.graph.node)
        self._directory = directory
        self._threads = threads
        self._stream = self._streamed_values()
        self._done: set[int] = set()  # nodes of the stream that ran
        ids = [window[None] for window in windows]
        # A graph that does not work positions out itself takes them as an input.
        self._held: list[Values] = [
            {"input_ids": row, "attention_mask": np.ones_like(row), "position_ids": np.arange(row.shape[1])[None]}
            for row in ids
        ]

    def read(self, names: Sequence[str]) -> Iterator[Values]:
        """Run on as far as the named values need, and give them window by window.

        Must be read to its end. A value that only a finished segment makes can't be had any more.
        """
        segment = self._next_segment(names)
        self._done |= segment.streamed
        graph = PlainGraph(self._content(segment), self._directory, self._threads)
        for held in self._held:
            values, kept = self._run(graph, segment, held)
            held.clear()
            held.update(kept)
            yield {name: values[name] for name in names}

    def branch(self, names: Sequence[str], changes: Sequence[Change]) -> list[Values]:
        """Run the first window as `read(names)` will, once for each change of the graph; the reading stays where it is.

        Returns:
            For each change, what crosses into the next segment: `join` lets it travel on beside the windows.
        """
        segment = self._next_segment(names)
        found = []
        for change in changes:
            graph = PlainGraph(self._content(segment, change), self._directory, self._threads)
            found.append(self._run(graph, segment, self._held[0])[1])
        return found

    def join(self, branches: Sequence[Values]) -> None:
        """Read on with some branches, too: each counts as one more window."""
        self._held += branches

    def nodes_of(self, names: Sequence[str]) -> set[str]:
        """Names of the nodes that `read(names)` will run."""
        return {self._nodes[index].name for index in self._next_segment(names).nodes}

    def _next_segment(self, names: Sequence[str]) -> _Segment:
        chosen = self._needed(names)
        streamed = {index for index in chosen if self._is_streamed(self._nodes[index])}
        later = self._read_after(self._done | streamed)
        made = {name for index in chosen for name in self._nodes[index].output if name in self._stream}
        return _Segment(chosen, streamed, sorted({*names, *(made & later)}), made & later, later)

    def _run(self, graph: PlainGraph, segment: _Segment, held: Values) -> tuple[Values, Values]:
        """A segment's outputs for what is held, and what to hold after it."""
        feeds = {name: value for name, value in held.items() if name in graph.inputs}
        values = graph.run(segment.outputs, feeds | empty_pasts(graph))
        still = {name for name in held if name not in self._stream or name in segment.read_later}
        return values, {name: values[name] for name in segment.crossing} | {name: held[name] for name in still}

    def _streamed_values(self) -> set[str]:
        """Names of everything that depends on the token embedding."""
        streamed: set[str] = set()
        for node in self._nodes:
            if _EMBEDDING in node.input or not streamed.isdisjoint(node.input):
                streamed.update(name for name in node.output if name)
        return streamed

    def _is_streamed(self, node: onnx.NodeProto) -> bool:
        return not self._stream.isdisjoint(node.output)

    def _needed(self, names: Sequence[str]) -> list[int]:
        """The nodes to run for some values, in order, given what is held."""
        wanted = set(names) - set(self._held[0])
        chosen = []
        for index in range(len(self._nodes) - 1, -1, -1):
            if not wanted.isdisjoint(self._nodes[index].output):
                chosen.append(index)
                wanted.update(name for name in self._nodes[index].input if name and name not in self._held[0])
        return chosen[::-1]

    def _read_after(self, done: set[int]) -> set[str]:
        """Values that the stream's other nodes read."""
        later = (node for index, node in enumerate(self._nodes) if index not in done and self._is_streamed(node))
        return {name for node in later for name in node.input}

    def _content(self, segment: _Segment, change: Change | None = None) -> bytes:
        """A segment as a graph of its own."""
        graph = self._proto.graph
        nodes = [self._nodes[index] for index in segment.nodes]
        extra = [] if change is None else change.initializers
        if change is not None:
            nodes = [change.node if node.name == change.node.name else node for node in nodes]
        made = {name for node in nodes for name in node.output}
        read = {name for node in nodes for name in node.input if name} - made
        initializers = [*(tensor for tensor in graph.initializer if tensor.name in read), *extra]
        known = {value.name: value for value in graph.input}
        inputs = [
            known.get(name) or onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in sorted(read - {tensor.name for tensor in initializers})
        ]
        results = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in segment.outputs]
        content = onnx.helper.make_graph(nodes, "segment", inputs, results, initializers)
        imports = {(item.domain, item.version) for item in self._proto.opset_import} | {(CONTRIB, CONTRIB_VERSION)}
        model = onnx.helper.make_model(content, opset_imports=[onnx.helper.make_opsetid(*item) for item in imports])
        model.ir_version = self._proto.ir_version
        return bytes(model.SerializeToString())


def empty_pasts(graph: PlainGraph) -> Values:
    """Pasts of no tokens for a graph's cache inputs, [1, kv_heads, 0, head_size] each."""
    pasts = {name: value for name, value in graph.inputs.items() if name.startswith("past_key_values.")}
    return {name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32) for name, value in pasts.items()}
