"""Qwen3: Llama with RMSNorm over the queries and keys of each head, and heads of 128."""

from __future__ import annotations

from dataclasses import replace

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..weight_rules import WeightRule
from .llama_like import HEAD_NORMS, NAMES, llama_like_family, llama_like_rules, read_llama_like, require_kv_heads
from .llama_like_gguf import HEAD_SIZE, RMS_EPSILON, llama_like_dialect
from .qwen2 import qwen_windows


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `Qwen3Config`."""
    fields.harmless("attention_dropout")
    require_kv_heads(fields)
    bias = fields.flag("attention_bias", False)
    return replace(
        read_llama_like(fields, "qwen3", head_size=fields.number("head_dim", 128)),
        attention_bias=bias,
        attention_output_bias=bias,
        query_key_norm="shared",
        windows=qwen_windows(fields),
    )


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `Qwen3ForCausalLM`."""
    return llama_like_rules(config, {**NAMES, **HEAD_NORMS})


FAMILY = replace(
    llama_like_family(
        "qwen3", "Qwen3", known_as="Qwen3 0.6B to 32B", read_config=read_config, weight_rules=weight_rules
    ),
    gguf=replace(
        llama_like_dialect(
            "qwen3",
            "Qwen3ForCausalLM",
            RMS_EPSILON | HEAD_SIZE,
            constants={"hidden_act": "silu", "use_sliding_window": False},
        ),
        flags={"blk.0.attn_q.bias": "attention_bias"},
    ),
)
