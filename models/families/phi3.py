"""Phi-3 and Phi-4-mini: Llama with query, key and value in one matrix, gate and up in another, and LongRoPE."""

from __future__ import annotations

from dataclasses import replace

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..rotary_fields import read_rotary
from ..weight_rules import WeightRule
from .llama_like import llama_like_family, llama_like_rules, read_llama_like, window_of, windows_everywhere
from .llama_like_gguf import HEAD_SIZE, LONG_ROTARY_FACTORS, RMS_EPSILON, WINDOW, llama_like_dialect


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `Phi3Config`."""
    fields.harmless("attention_dropout", "resid_pdrop", "embd_pdrop")
    fields.adopted_code("configuration_phi3.Phi3Config", "modeling_phi3.Phi3ForCausalLM")
    for bias in ("attention_bias", "mlp_bias", "lm_head_bias"):
        fields.inactive(bias, False)
    fields.inactive("full_attn_mod", 1)  # every layer sees everything
    fields.inactive("interpolate_factor", 1)
    rotary = read_rotary(
        fields,
        head_size=fields.head_size(fields.number("hidden_size"), fields.number("num_attention_heads"), "head_dim"),
        max_positions=fields.number("max_position_embeddings"),
        default_share=1.0,
        default_original=4096,
    )
    config = read_llama_like(fields, "phi3", default_epsilon=1e-5, rotary=rotary)
    return replace(config, windows=windows_everywhere(window_of(fields), config))


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `Phi3ForCausalLM`."""
    return llama_like_rules(
        config,
        {
            "input_layernorm": ["attention_norm"],
            "self_attn.qkv_proj": ["attention.query", "attention.key", "attention.value"],
            "self_attn.o_proj": ["attention.output"],
            "post_attention_layernorm": ["mlp_norm"],
            "mlp.gate_up_proj": ["mlp.gate", "mlp.up"],
            "mlp.down_proj": ["mlp.down"],
        },
    )


FAMILY = replace(
    llama_like_family(
        "phi3",
        "Phi3",
        known_as="Phi-3-mini, Phi-3-medium, Phi-3.5-mini, Phi-4, Phi-4-mini",
        read_config=read_config,
        weight_rules=weight_rules,
        limits="LongRoPE: the original context only",
    ),
    # The window is the model's, as transformers has it; llama.cpp warns that it leaves it out.
    gguf=replace(
        llama_like_dialect(
            "phi3", "Phi3ForCausalLM", RMS_EPSILON | HEAD_SIZE | WINDOW, constants={"hidden_act": "silu"}
        ),
        rotary_share="partial_rotary_factor",
        rotary_tensors=LONG_ROTARY_FACTORS,
        fused_gate=True,
    ),
)
