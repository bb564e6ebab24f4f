"""Phi: attention and MLP side by side behind one LayerNorm, partial rotary positions, biases everywhere."""

from __future__ import annotations

from dataclasses import replace

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..weight_rules import WeightRule
from .llama_like import NAMES, llama_like_family, llama_like_rules, read_llama_like
from .llama_like_gguf import llama_like_dialect


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `PhiConfig`."""
    fields.harmless("attention_dropout", "resid_pdrop", "embd_pdrop")
    config = read_llama_like(
        fields,
        "phi",
        norm="layernorm",
        epsilon_field="layer_norm_eps",
        default_epsilon=1e-5,
        activation=fields.activation("hidden_act", "gelu_new"),
        head_size=fields.head_size(fields.number("hidden_size"), fields.number("num_attention_heads")),
        rotary_share=0.5,
    )
    normed = fields.flag("qk_layernorm", False)
    return replace(
        config,
        residual="parallel_shared_norm",
        gated_mlp=False,
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        head_bias=True,
        query_key_norm="shared" if normed else None,
        query_key_norm_bias=normed,
    )


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `PhiForCausalLM`."""
    own = {
        "self_attn.dense": ["attention.output"],
        "self_attn.q_layernorm": ["attention.query_norm"],
        "self_attn.k_layernorm": ["attention.key_norm"],
        "mlp.fc1": ["mlp.up"],
        "mlp.fc2": ["mlp.down"],
    }
    theirs = {"self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"}
    names = {stored: targets for stored, targets in NAMES.items() if stored not in theirs}
    return llama_like_rules(config, {**names, **own}, final_norm="final_layernorm")


FAMILY = replace(
    llama_like_family(
        "phi", "Phi", known_as="Phi-1, Phi-1.5, Phi-2", read_config=read_config, weight_rules=weight_rules
    ),
    gguf=replace(
        llama_like_dialect(
            "phi2",
            "PhiForCausalLM",
            {"attention.layer_norm_epsilon": "layer_norm_eps"},
            constants={"hidden_act": "gelu_new", "partial_rotary_factor": 1.0},
        ),
        rotary_share="partial_rotary_factor",
    ),
)
