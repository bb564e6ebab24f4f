"""Graph rewrites, one per file. Each takes a model, changes it in place and returns whether it changed anything."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from .bias_gelu import fuse_bias_gelu, fuse_erf_bias_gelu
from .cleanup import remove_leftovers
from .gate_up import pack_gate_up
from .last_logits import keep_last_logits
from .lower_gelu import lower_gelu, lower_gelu_standard
from .packed_qkv import pack_qkv, pack_split_qkv
from .rms_norm import fuse_rms_norm
from .silu import fuse_silu
from .simplify import simplify
from .skip_norm import fuse_skip_norm
from .tied_head import multiply_by_stored_embedding, multiply_by_stored_embedding_standard

GraphPass = Callable[[ir.Model], bool]

# Tied heads come first, before anything could fold their transposed copy; skip + norm comes after whatever makes norms.
FUSED_PASSES: tuple[GraphPass, ...] = (
    multiply_by_stored_embedding,
    simplify,
    fuse_rms_norm,
    pack_qkv,
    pack_gate_up,
    fuse_bias_gelu,
    fuse_silu,
    fuse_skip_norm,
    keep_last_logits,
    remove_leftovers,
)
STANDARD_PASSES: tuple[GraphPass, ...] = (
    multiply_by_stored_embedding_standard,
    simplify,
    pack_qkv,
    pack_gate_up,
    keep_last_logits,
    remove_leftovers,
)

# DirectML's attention takes query, key and value apart, and its GELU is by erf.
PLAIN_FUSED_PASSES: tuple[GraphPass, ...] = (
    multiply_by_stored_embedding,
    simplify,
    fuse_rms_norm,
    pack_split_qkv,
    pack_gate_up,
    fuse_erf_bias_gelu,
    fuse_silu,
    lower_gelu,
    fuse_skip_norm,
    keep_last_logits,
    remove_leftovers,
)
PLAIN_STANDARD_PASSES: tuple[GraphPass, ...] = (
    multiply_by_stored_embedding_standard,
    simplify,
    pack_split_qkv,
    pack_gate_up,
    lower_gelu_standard,
    keep_last_logits,
    remove_leftovers,
)


def run_passes(model: ir.Model, passes: tuple[GraphPass, ...]) -> list[str]:
    """Run the passes in order; return the names of those that changed the graph."""
    return [each.__name__ for each in passes if each(model)]
