"""Reading a text through a graph piece by piece, so that only the weights of one piece are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..runtime.session import PlainGraph

Values = dict[str, NDArray[Any]]
_EMBEDDING = "token_embedding.weight"


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
        self._held: list[Values] = [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in ids]

    def read(self, names: Sequence[str]) -> Iterator[Values]:
        """Run on as far as the named values need, and give them window by window.

        Must be read to its end. A value that only a finished segment makes can't be had any more.
        """
        chosen = self._needed(names)
        self._done |= {index for index in chosen if self._is_streamed(self._nodes[index])}
        crossing = self._crossing(chosen)
        outputs = sorted({*names, *crossing})
        graph = PlainGraph(self._segment(chosen, outputs), self._directory, self._threads)
        for held in self._held:
            feeds = {name: value for name, value in held.items() if name in graph.inputs}
            feeds |= empty_pasts(graph)
            values = graph.run(outputs, feeds)
            keep = {name: values[name] for name in crossing} | {name: held[name] for name in self._still_read(held)}
            held.clear()
            held.update(keep)
            yield {name: values[name] for name in names}

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

    def _crossing(self, chosen: Sequence[int]) -> set[str]:
        """Values of the stream that this segment makes and a later one reads."""
        made = {name for index in chosen for name in self._nodes[index].output if name in self._stream}
        return made & self._read_later()

    def _still_read(self, held: Values) -> set[str]:
        return {name for name in held if name not in self._stream or name in self._read_later()}

    def _read_later(self) -> set[str]:
        later = (node for index, node in enumerate(self._nodes) if index not in self._done and self._is_streamed(node))
        return {name for node in later for name in node.input}

    def _segment(self, chosen: Sequence[int], outputs: Sequence[str]) -> bytes:
        """The chosen nodes as a graph of their own."""
        graph = self._proto.graph
        nodes = [self._nodes[index] for index in chosen]
        made = {name for node in nodes for name in node.output}
        read = {name for node in nodes for name in node.input if name} - made
        initializers = [tensor for tensor in graph.initializer if tensor.name in read]
        known = {value.name: value for value in graph.input}
        inputs = [
            known.get(name) or onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in sorted(read - {tensor.name for tensor in initializers})
        ]
        results = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
        segment = onnx.helper.make_graph(nodes, "segment", inputs, results, initializers)
        model = onnx.helper.make_model(segment, opset_imports=list(self._proto.opset_import))
        model.ir_version = self._proto.ir_version
        return bytes(model.SerializeToString())


def empty_pasts(graph: PlainGraph) -> Values:
    """Pasts of no tokens for a graph's cache inputs, [1, kv_heads, 0, head_size] each."""
    pasts = {name: value for name, value in graph.inputs.items() if name.startswith("past_key_values.")}
    return {name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32) for name, value in pasts.items()}
