"""Gate and up of a gated MLP in one product."""

from __future__ import annotations

import onnx_ir as ir

from .shared_input import pack, sibling_products

PARTS = ("gate", "up")


def pack_gate_up(model: ir.Model) -> bool:
    """Two products of one input become one by `….gate_up.weight` and a split."""
    found = list(sibling_products(model, PARTS))
    for prefix, products in found:
        pack(model, products, f"{prefix}.gate_up")
    return bool(found)
