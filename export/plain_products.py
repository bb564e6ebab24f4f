"""What can be quantized in a graph that optimum made: its products with a matrix, of whatever role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir


def describe_products(graph: ir.Graph) -> tuple[dict[str, Any], ...]:
    """One record for each product x @ W with a float32 matrix that nothing else reads, in the graph's order.

    The records are as in `export.matrices`; of norms and of what feeds what nothing is known, so nothing is smoothed.
    A head that is the embedding turned over, and GPT-2's sums in one with their products (Gemm), are left as they are.
    """
    return tuple(_records(graph))


def _records(graph: ir.Graph) -> Iterator[dict[str, Any]]:
    for node in graph:
        if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx"):
            continue
        weight = node.inputs[1]
        if weight is None or not weight.is_initializer() or len(weight.uses()) != 1:
            continue
        shape = () if weight.shape is None else tuple(weight.shape.numpy()) if weight.shape.is_static() else ()
        if len(shape) != 2 or weight.dtype != ir.DataType.FLOAT:
            continue
        is_head = node.outputs[0].is_graph_output()
        yield {
            "initializer": weight.name,
            "role": "head" if is_head else "product",
            "layer": None if is_head else _layer(node.name or ""),
            "shape": [int(size) for size in shape],
            "transposed": False,
            "bias": None,
            "parts": [],
            "norm": None,
            "fed_by": None,
            "node": node.name,
        }


def _layer(name: str) -> int | None:
    """The block's number, which tracers put into names: /transformer/h.3/mlp/…"""
    found = re.search(r"[./](\d+)/", name)
    return int(found.group(1)) if found else None
