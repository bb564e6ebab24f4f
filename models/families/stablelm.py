"""StableLM: Llama with LayerNorm and partial rotary positions; StableLM 2 12B has norms of each head."""

from __future__ import annotations

from dataclasses import replace

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..weight_rules import ONE_ROW, WeightRule, per_layer
from .llama_like import llama_like_family, llama_like_rules, read_llama_like, require_kv_heads
from .llama_like_gguf import llama_like_dialect


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `StableLmConfig`."""
    fields.harmless("attention_dropout", "hidden_dropout")
    require_kv_heads(fields)
    config = read_llama_like(
        fields,
        "stablelm",
        norm="layernorm",
        epsilon_field="layer_norm_eps",
        default_epsilon=1e-5,
        head_size=fields.head_size(fields.number("hidden_size"), fields.number("num_attention_heads")),
        rotary_share=0.25,
    )
    return replace(
        config,
        attention_bias=fields.flag("use_qkv_bias", False),
        residual="parallel_shared_norm" if fields.flag("use_parallel_residual", False) else "sequential",
        query_key_norm="per_head" if fields.flag("qk_layernorm", False) else None,
    )


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `StableLmForCausalLM`; each head's norm is a module of its own."""

    def head_norms(layer: int) -> list[WeightRule]:
        return [
            WeightRule(
                f"model.layers.{layer}.self_attn.{letter}_layernorm.norms.{head}.weight",
                (f"blocks.{layer}.attention.{part}_norm.weight",),
                ONE_ROW,
            )
            for letter, part, heads in (("q", "query", config.num_heads), ("k", "key", config.num_kv_heads))
            for head in range(heads)
        ]

    return [*llama_like_rules(config), *(per_layer(config, head_norms) if config.query_key_norm else ())]


FAMILY = replace(
    llama_like_family(
        "stablelm",
        "StableLm",
        known_as="StableLM 3B, StableLM 2 1.6B and 12B",
        read_config=read_config,
        weight_rules=weight_rules,
    ),
    gguf=replace(
        llama_like_dialect(
            "stablelm",
            "StableLmForCausalLM",
            {"attention.layer_norm_epsilon": "layer_norm_eps"},
            constants={"hidden_act": "silu", "partial_rotary_factor": 1.0},
            # Conversions write true where the config says nothing, of models that are not; the norms tell.
            inactive={"use_parallel_residual": (True, False)},
        ),
        flags={"blk.0.attn_q.bias": "use_qkv_bias", "blk.0.attn_q_norm.weight": "qk_layernorm"},
        absent_flags={"blk.0.ffn_norm.weight": "use_parallel_residual"},
        rotary_share="partial_rotary_factor",
    ),
)
