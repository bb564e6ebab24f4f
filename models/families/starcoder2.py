"""StarCoder2: LayerNorm, rotary positions, an MLP without a gate, biases everywhere, often a sliding window."""

from __future__ import annotations

from dataclasses import replace

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..weight_rules import WeightRule
from .llama_like import (
    NAMES,
    llama_like_family,
    llama_like_rules,
    read_llama_like,
    require_kv_heads,
    window_of,
    windows_everywhere,
)
from .llama_like_gguf import HEAD_SIZE, WINDOW, llama_like_dialect


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `Starcoder2Config`."""
    fields.harmless("attention_dropout", "residual_dropout", "embedding_dropout")
    fields.inactive("mlp_type", "default")
    fields.inactive("norm_type", "layer_norm")
    require_kv_heads(fields)
    config = read_llama_like(
        fields,
        "starcoder2",
        norm="layernorm",
        epsilon_field=fields.name_of("norm_epsilon", "layer_norm_epsilon"),
        default_epsilon=1e-5,
        activation=fields.activation("hidden_act", "gelu_pytorch_tanh"),
        tied_by_default=True,
    )
    bias = fields.flag("use_bias", True)
    return replace(
        config,
        gated_mlp=False,
        attention_bias=bias,
        attention_output_bias=bias,
        mlp_bias=bias,
        windows=windows_everywhere(window_of(fields), config),
    )


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `Starcoder2ForCausalLM`."""
    names = {stored: targets for stored, targets in NAMES.items() if not stored.startswith("mlp.")}
    return llama_like_rules(config, {**names, "mlp.c_fc": ["mlp.up"], "mlp.c_proj": ["mlp.down"]})


FAMILY = replace(
    llama_like_family(
        "starcoder2",
        "Starcoder2",
        known_as="StarCoder2 3B, 7B and 15B",
        read_config=read_config,
        weight_rules=weight_rules,
    ),
    gguf=replace(
        llama_like_dialect(
            "starcoder2",
            "Starcoder2ForCausalLM",
            {"attention.layer_norm_epsilon": "norm_epsilon"} | HEAD_SIZE | WINDOW,
            # Conversions leave out the window; llama.cpp then sees everything.
            constants={"hidden_act": "gelu_pytorch_tanh", "sliding_window": None},
        ),
        flags={"blk.0.attn_q.bias": "use_bias"},
    ),
)
