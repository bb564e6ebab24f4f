"""The likeliest next tokens as outputs of the graph, so that the logits of a whole vocabulary can stay on a device.

They lie behind the logits and read these alone, so a rewrite of what comes before takes them out, and puts them in
again at its end.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..runtime.graph_spec import CHOICES, GREEDY_IDS, TOP_IDS
from .editing import add_initializer, integers

MOST = 64  # tokens: as many as sampling usually looks at, and within the 256 that CUDA's fast kernel finds

_COUNT, _LAST, _FIRST, _AXIS = "choices.count", "choices.last", "choices.first", "choices.axis"


def add_choices(model: ir.Model) -> bool:
    """Give out what the last position's logits say of the next token; whether the graph did not do so already.

    With K = min(64, vocabulary), all of float32 or int64 whatever the logits' type:

    - `greedy_ids` [batch, 1]: the likeliest token, of equal ones that with the smallest id;
    - `top_ids`, `top_logits` [batch, K]: the likeliest tokens, the likeliest first, of equal ones the smaller id;
    - `log_normalizer` [batch, 1]: log(sum(exp(logits))) over the vocabulary.

    The order of equal tokens is TopK's by ONNX's specification. ONNX Runtime 1.31 keeps it on the CPU, and on CUDA
    wherever its kernel of many blocks runs (up to 256 of a last axis, in batches that fit on the device at once); its
    older kernel, one block to a row, leaves it open.

    There is no ArgMax, since the first of TopK's is the same, and no ReduceLogSumExp: the greatest logit is known
    already, so that powers and their sum are left to do. They are added up in float64: the CPU adds 49,152 powers in
    float32 up to a logarithm that is off by 3e-5, which would decide where a nucleus ends.
    """
    graph = model.graph
    logits = next((value for value in graph.outputs if value.name == "logits"), None)
    if logits is None or graph_has_choices(graph):
        return False
    assert logits.shape is not None
    vocabulary = int(logits.shape[-1])  # type: ignore[arg-type]
    count = min(MOST, vocabulary)
    last = ir.node("Gather", [logits, _scalar(model, _LAST, -1)], {"axis": 1})  # [batch, vocabulary]
    nodes, scores = [last], last.outputs[0]
    if logits.dtype != ir.DataType.FLOAT:
        nodes.append(ir.node("Cast", [scores], {"to": ir.DataType.FLOAT.value}))
        scores = nodes[-1].outputs[0]
    best = ir.node("TopK", [scores, integers(model, _COUNT, [count])], {"axis": -1}, num_outputs=2)
    first, axis = integers(model, _FIRST, [0]), integers(model, _AXIS, [1])
    greedy = ir.node("Gather", [best.outputs[1], first], {"axis": 1})
    highest = ir.node("Gather", [best.outputs[0], first], {"axis": 1})
    below = ir.node("Sub", [scores, highest.outputs[0]])
    powers = ir.node("Exp", [below.outputs[0]])
    wide = ir.node("Cast", [powers.outputs[0]], {"to": ir.DataType.DOUBLE.value})
    total = ir.node("ReduceSum", [wide.outputs[0], axis], {"keepdims": 1})
    single = ir.node("Cast", [total.outputs[0]], {"to": ir.DataType.FLOAT.value})
    logarithm = ir.node("Log", [single.outputs[0]])
    normalizer = ir.node("Add", [highest.outputs[0], logarithm.outputs[0]])
    nodes += [best, greedy, highest, below, powers, wide, total, single, logarithm, normalizer]
    graph.extend(nodes)
    results = (greedy.outputs[0], best.outputs[1], best.outputs[0], normalizer.outputs[0])
    for name, value, width in zip(CHOICES, results, (1, count, count, 1), strict=True):
        value.name = name
        value.type = ir.TensorType(ir.DataType.INT64 if name in (GREEDY_IDS, TOP_IDS) else ir.DataType.FLOAT)
        value.shape = ir.Shape(["batch", width])
        graph.outputs.append(value)
    return True


def drop_choices(model: ir.Model) -> bool:
    """Take out what `add_choices` put in; whether there was any."""
    graph = model.graph
    given = [value for value in graph.outputs if value.name in CHOICES]
    for value in given:
        graph.outputs.remove(value)
    pending = [value.producer() for value in given]
    while pending:
        node = pending.pop()
        if node is None or node.graph is None or any(each.uses() or each.is_graph_output() for each in node.outputs):
            continue
        sources = [value.producer() for value in node.inputs if value is not None]
        graph.remove(node, safe=True)
        pending += sources
    for name in (_COUNT, _LAST, _FIRST, _AXIS):
        if name in graph.initializers and not graph.initializers[name].uses():
            graph.initializers.pop(name)
    return bool(given)


def graph_has_choices(graph: ir.Graph) -> bool:
    """Whether the graph chooses tokens itself."""
    return any(value.name == TOP_IDS for value in graph.outputs)


def _scalar(model: ir.Model, name: str, number: int) -> ir.Value:
    """An initializer int64 without dimensions, made once."""
    if name in model.graph.initializers:
        return model.graph.initializers[name]
    return add_initializer(model, name, ir.tensor(np.array(number, np.int64), name=name))
