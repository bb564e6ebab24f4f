"""What the manifest says of the graph's matrices: where each is, its role, what is packed in it, what feeds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from ..models.config import GPTConfig
from ..runtime.errors import ExportError


def describe_matrices(graph: ir.Graph, config: GPTConfig) -> tuple[dict[str, Any], ...]:
    """One record per matrix, in the order in which the model uses them, each checked against the graph.

    Keys of a record:
        initializer: its name in the graph.
        role: token_embedding, position_embedding, input_projection, qkv, attention_output, gate_up, up, down,
            output_projection or head.
        layer: the block's index; null outside of the blocks.
        shape: [in, out] of the product y = x @ W; [rows, width] of an embedding.
        transposed: true where the graph stores it as [out, in]: a tied head, which is the token embedding's matrix.
        node: the node that multiplies by it or looks up in it.
        bias: the initializer that is added to the product, or null.
        parts: [{"role", "start", "stop"}], the columns of each matrix packed in it; empty when it is one matrix.
        norm: the weight of the norm whose output goes into this matrix and nowhere else, so that a scale can be
            moved between the two; null where there is none.
        fed_by: {"initializer", "part"}: the columns that make this matrix's input with only sums over positions or a
            product with the gate in between, so that a scale can be moved there; null where there are none. It is up
            for down, column by row, and value for the attention's output: with grouped heads, one column of value
            feeds the row of the same element in every head of its group.
    """
    return tuple(_checked(record, graph) for record in _records(config))


def _records(config: GPTConfig) -> Iterator[dict[str, Any]]:
    hidden, vocabulary, width = config.hidden_size, config.vocab_size, config.embedding_width
    yield _record("token_embedding.weight", "token_embedding", [vocabulary, width])
    if config.embedding_size is not None:
        yield _record("input_projection.weight", "input_projection", [width, hidden])
    if config.position == "learned":
        yield _record("position_embedding.weight", "position_embedding", [config.context_length, hidden])
    for layer in range(config.num_layers):
        yield from _block_records(config, layer)
    norm = "final_norm.weight" if config.final_norm else None
    if config.embedding_size is not None:
        yield _record("output_projection.weight", "output_projection", [hidden, width], norm=norm)
        norm = None
    name = "token_embedding.weight" if config.tied_head else "head.weight"
    bias = "head.bias" if config.head_bias else None
    yield _record(name, "head", [width, vocabulary], norm=norm, bias=bias, transposed=config.tied_head)


def _block_records(config: GPTConfig, layer: int) -> Iterator[dict[str, Any]]:
    prefix = f"blocks.{layer}"
    # A norm that something else reads, too, can take no scale.
    only_reader = config.norm_place != "after" and not config.residual_from_norm and config.mlp_norm
    attention, mlp = f"{prefix}.attention", f"{prefix}.mlp"
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    yield _record(
        f"{attention}.qkv.weight",
        "qkv",
        [hidden, query + 2 * key],
        layer=layer,
        parts=_parts({"query": query, "key": key, "value": key}),
        norm=f"{prefix}.attention_norm.weight" if only_reader else None,
        bias=f"{attention}.qkv.bias" if config.attention_bias else None,
    )
    yield _record(
        f"{attention}.output.weight",
        "attention_output",
        [query, hidden],
        layer=layer,
        fed_by={"initializer": f"{attention}.qkv.weight", "part": "value"},
        bias=f"{attention}.output.bias" if config.attention_output_bias else None,
    )
    norm = f"{prefix}.mlp_norm.weight" if only_reader else None
    biased = config.mlp_bias
    if config.gated_mlp:
        name, shape, parts = f"{mlp}.gate_up", [hidden, 2 * inner], _parts({"gate": inner, "up": inner})
    else:
        name, shape, parts = f"{mlp}.up", [hidden, inner], []
    yield _record(
        f"{name}.weight",
        "gate_up" if config.gated_mlp else "up",
        shape,
        layer=layer,
        parts=parts,
        norm=norm,
        bias=f"{name}.bias" if biased else None,
    )
    # Through an activation no scale can pass, except ReLU's; only the gated MLP's up goes straight into down.
    yield _record(
        f"{mlp}.down.weight",
        "down",
        [inner, hidden],
        layer=layer,
        fed_by={"initializer": f"{mlp}.gate_up.weight", "part": "up"} if config.gated_mlp else None,
        bias=f"{mlp}.down.bias" if biased else None,
    )


def _record(
    initializer: str,
    role: str,
    shape: list[int],
    *,
    layer: int | None = None,
    parts: list[dict[str, Any]] | None = None,
    norm: str | None = None,
    fed_by: dict[str, str] | None = None,
    bias: str | None = None,
    transposed: bool = False,
) -> dict[str, Any]:
    return {
        "initializer": initializer,
        "role": role,
        "layer": layer,
        "shape": shape,
        "transposed": transposed,
        "bias": bias,
        "parts": parts or [],
        "norm": norm,
        "fed_by": fed_by,
    }


def _parts(widths: dict[str, int]) -> list[dict[str, Any]]:
    parts, start = [], 0
    for role, width in widths.items():
        parts.append({"role": role, "start": start, "stop": start + width})
        start += width
    return parts


def _checked(record: dict[str, Any], graph: ir.Graph) -> dict[str, Any]:
    """The record with its node, once the graph was found to hold what it says."""
    value = graph.initializers.get(record["initializer"])
    expected = record["shape"][::-1] if record["transposed"] else record["shape"]
    found = None if value is None or value.shape is None else list(value.shape.numpy())
    if value is None or found != expected:
        raise ExportError(
            f"the graph holds {record['initializer']} as {found}, expected {expected}: a rewrite went wrong; "
            "report it with the model's config"
        )
    for other in (record["norm"], record["bias"]):
        if other is not None and other not in graph.initializers:
            raise ExportError(f"the graph lost {other}: a rewrite went wrong; report it with the model's config")
    lookup = record["role"].endswith("_embedding")
    nodes = [use.node.name for use in value.uses() if (use.node.op_type == "Gather") == lookup]
    if len(nodes) != 1:
        raise ExportError(f"{record['initializer']} is used by {nodes} as {record['role']}: expected one node")
    return record | {"node": nodes[0]}
