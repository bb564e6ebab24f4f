"""The graph in blocks: products become MatMulNBits, look-ups GatherBlockQuantized, a tied matrix is stored once."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..graphs.block_nodes import replace_lookup, replace_product
from ..runtime.errors import QuantizationError
from .blocks import BlockedMatrix
from .layerwise import Changes
from .recipe import Record


def put_into_blocks(model: ir.Model, records: Sequence[Record], changes: Changes[BlockedMatrix]) -> None:
    """Rewrite the graph by what the quantizer found. Initializers that nobody reads any more are removed."""
    graph = model.graph
    nodes = {node.name: node for node in graph}
    for name, vector in changes.vectors.items():
        graph.initializers[name].const_value = ir.tensor(vector, name=name)
    for record in records:
        matrix = changes.matrices.get(record["initializer"])
        if matrix is None:
            continue
        node = nodes[record["node"]]
        if record["role"] == "token_embedding":
            replace_lookup(model, node, record["initializer"], matrix, changes.embedding_scale)
        else:
            replace_product(model, node, record["initializer"], matrix)
    for name in changes.matrices:
        if graph.initializers[name].uses():
            raise QuantizationError(f"{name} is still read in full precision: report it with the model's config")
        del graph.initializers[name]
