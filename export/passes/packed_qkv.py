"""Query, key and value in one product, packed where the attention operator takes them so."""

from __future__ import annotations

import onnx_ir as ir

from .shared_input import pack, sibling_products

PARTS = ("query", "key", "value")


def pack_qkv(model: ir.Model) -> bool:
    """Three products become one by `….qkv.weight`; `GroupQueryAttention` reads its result without a split."""
    return _pack(model, feeds_packed=True)


def pack_split_qkv(model: ir.Model) -> bool:
    """The same, with the split kept: for attention that takes the three apart."""
    return _pack(model, feeds_packed=False)


def _pack(model: ir.Model, *, feeds_packed: bool) -> bool:
    changed = False
    for prefix, products in list(sibling_products(model, PARTS)):
        results = pack(model, products, f"{prefix}.qkv")
        if feeds_packed:
            _feed_packed(model, results)
        changed = True
    return changed


def _feed_packed(model: ir.Model, results: list[ir.Value]) -> None:
    """Take the split away when all that reads it is one attention operator that takes packed input."""
    uses = [tuple(value.uses()) for value in results]
    readers = {id(node) for each in uses for node, _ in each}
    if len(readers) != 1 or [[index for _, index in each] for each in uses] != [[0], [1], [2]]:
        return
    attention = uses[0][0][0]
    split = results[0].producer()
    if attention.op_type != "GroupQueryAttention" or split is None:
        return
    attention.replace_input_with(0, split.inputs[0])
    attention.replace_input_with(1, None)
    attention.replace_input_with(2, None)
    model.graph.remove(split, safe=True)
