"""How many bytes of weights a decoding step must read, from the graph itself."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import onnx

# Operators that read one row per token of a table, and those that read a whole matrix.
LOOKUPS = frozenset({"Gather", "GatherBlockQuantized", "GatherND"})
PRODUCTS = frozenset(
    {"MatMul", "MatMulNBits", "Gemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "FusedMatMul"}
)


@dataclass(frozen=True)
class StepBytes:
    """Bytes read once per token: by matrix products, and by everything but look-ups."""

    products: int
    all: int


def step_bytes(graph: Path) -> StepBytes:
    """Count the initializers of an ONNX file; a table that is only looked up in counts nothing."""
    model = onnx.load(graph, load_external_data=False)
    readers: dict[str, set[str]] = defaultdict(set)
    for node in model.graph.node:
        for name in node.input:
            readers[name].add(node.op_type)
    products = everything = 0
    for tensor in model.graph.initializer:
        size = _bytes(tensor)
        used_by = readers[tensor.name] - LOOKUPS
        everything += size if used_by else 0
        products += size if used_by & PRODUCTS else 0
    return StepBytes(products, everything)


def _bytes(tensor: onnx.TensorProto) -> int:
    count = math.prod(int(size) for size in tensor.dims)
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return math.ceil(count / 2)
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
