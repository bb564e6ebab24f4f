"""`num_logits_to_keep`: an optional input that spares the head all but the last positions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...graphs.editing import add_initializer, integers, producer

NAME = "num_logits_to_keep"
_END = 2**63 - 1
_PRODUCTS = ("MatMul", "FusedMatMul", "Gemm")
_BEHIND = ("Add", "Reshape", "Mul", "Tanh", "Div")  # the bias, the rows that Gemm wants, a soft cap


def keep_last_logits(model: ir.Model) -> bool:
    """Slice the head's input from -num_logits_to_keep on; 0, the default, keeps all.

    An input with an initializer of the same name is optional: the initializer is its default.
    """
    graph = model.graph
    hidden = _head_input(graph)
    if hidden is None or NAME in graph.initializers:
        return False
    readers = [node for node, _ in hidden.uses()]
    count = add_initializer(model, NAME, ir.tensor(np.zeros(1, np.int64), name=NAME))
    graph.inputs.append(count)
    start = ir.node("Neg", [count])
    end, axis = integers(model, "last_position", [_END]), integers(model, "sequence_axis", [1])
    last = ir.node("Slice", [hidden, start.outputs[0], end, axis])
    ir.convenience.replace_all_uses_with(hidden, last.outputs[0])
    last.replace_input_with(0, hidden)
    graph.insert_before(min(readers, key=list(graph).index), [start, last])
    return True


def _head_input(graph: ir.Graph) -> ir.Value | None:
    """The hidden states that the head multiplies; nothing but the head reads them."""
    value = next((value for value in graph.outputs if value.name == "logits"), None)
    node = producer(value, *_BEHIND, *_PRODUCTS)
    while node is not None and node.op_type in _BEHIND:
        node = producer(node.inputs[0], *_BEHIND, *_PRODUCTS)
    if node is None:
        return None
    rows = producer(node.inputs[0], "Reshape") if node.op_type == "Gemm" else None
    return rows.inputs[0] if rows is not None else node.inputs[0]
