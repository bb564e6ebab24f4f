"""Which tensors of a GGUF file hold which of the GPT's own: the names of GGUF, the same for every architecture."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import torch

from .config import GPTConfig
from .family import GgufDialect
from .weight_rules import AS_STORED, OUT_IN, Layout, Shape, WeightRule, regrouped_rotary_heads

# Canonical names without ".weight" or ".bias".
_OUTSIDE_BLOCKS = {
    "token_embedding": "token_embd",
    "position_embedding": "position_embd",
    "embedding_norm": "token_embd_norm",
    "final_norm": "output_norm",
    "head": "output",
}
_INSIDE_BLOCKS = {
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "attention.output": "attn_output",
    "attention_post_norm": "post_attention_norm",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
    "mlp_post_norm": "post_ffw_norm",
}
_FUSED_ATTENTION = ("attention.query", "attention.key", "attention.value")
_FUSED_MLP = ("mlp.gate", "mlp.up")


def gguf_rules(
    dialect: GgufDialect, config: GPTConfig, canonical: Mapping[str, Shape], stored: Collection[str] = ()
) -> list[WeightRule]:
    """The rules for a file whose tensors are called `stored`; query, key and value are fused where it has attn_qkv."""
    fused: dict[str, tuple[str, tuple[str, ...]]] = {}  # part of a block → the fused tensor and its parts
    if dialect.fused_attention or "blk.0.attn_qkv.weight" in stored:
        fused |= dict.fromkeys(_FUSED_ATTENTION, ("attn_qkv", _FUSED_ATTENTION))
    if dialect.fused_gate:
        fused |= dict.fromkeys(_FUSED_MLP, ("ffn_up", _FUSED_MLP))
    rules = []
    for name, shape in canonical.items():
        stem, kind = name.rsplit(".", 1)
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", stem)
        if match is None:
            layout = OUT_IN if stem == "head" else AS_STORED
            rules.append(WeightRule(f"{_OUTSIDE_BLOCKS[stem]}.{kind}", (name,), layout))
            continue
        layer, part = match.groups()
        if part in fused:
            tensor, parts = fused[part]
            if part == parts[0]:
                targets = tuple(f"blocks.{layer}.{each}.{kind}" for each in parts)
                layouts = [
                    _layout_of(dialect, config, each, canonical[target])
                    for each, target in zip(parts, targets, strict=True)
                ]
                rules.append(WeightRule(f"blk.{layer}.{tensor}.{kind}", targets, _stacked(layouts)))
            continue
        layout = _layout_of(dialect, config, part, shape)
        rules.append(WeightRule(f"blk.{layer}.{_INSIDE_BLOCKS[part]}.{kind}", (name,), layout))
    return rules


def _layout_of(dialect: GgufDialect, config: GPTConfig, part: str, shape: Shape) -> Layout:
    if dialect.regrouped_rotary and part in ("attention.query", "attention.key"):
        return regrouped_rotary_heads(config.head_size)
    return AS_STORED if len(shape) == 1 or part.endswith("_norm") else OUT_IN  # norms of each head: [heads, head_size]


def _stacked(layouts: Sequence[Layout]) -> Layout:
    """Matrices [out, in] one above the other, each in a layout of its own."""

    def unpack(tensor: torch.Tensor, shapes: Sequence[Shape]) -> Sequence[torch.Tensor]:
        rows = tensor.split_with_sizes([shape[-1] for shape in shapes])
        return [layout.unpack(part, [shape])[0] for layout, part, shape in zip(layouts, rows, shapes, strict=True)]

    return Layout(OUT_IN.stored_shape, unpack)
