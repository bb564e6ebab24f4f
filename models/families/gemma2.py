"""Gemma 2: Gemma with norms on both sides, soft caps, and a sliding window in every other layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..weight_rules import WeightRule
from .gemma import gemma_rules, read_gemma_like
from .llama_like import NAMES, Names, llama_like_family, window_of, windows_by_layer
from .llama_like_gguf import HEAD_SIZE, RMS_EPSILON, WINDOW, even_head_size, llama_like_dialect

NORMS: Names = {
    "input_layernorm": ["attention_norm"],
    "post_attention_layernorm": ["attention_post_norm"],
    "pre_feedforward_layernorm": ["mlp_norm"],
    "post_feedforward_layernorm": ["mlp_post_norm"],
}


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `Gemma2Config`."""
    window = window_of(fields, default=4096)
    fields.inactive("sliding_window_size", None, window)  # the name before it was sliding_window
    config = read_gemma_like(fields, "gemma2")
    return replace(
        config,
        norm_place="both",
        attention_scale=fields.real("query_pre_attn_scalar", 256.0) ** -0.5,
        attention_softcap=soft_cap_of(fields, "attn_logit_softcapping", 50.0),
        logit_softcap=soft_cap_of(fields, "final_logit_softcapping", 30.0),
        windows=windows_by_layer(fields, config.num_layers, window, lambda layer: layer % 2 == 0),
    )


def soft_cap_of(fields: ConfigReader, name: str, default: float | None = None) -> float | None:
    """A soft cap; null is none, and `default` what a config means that leaves it out."""
    fields.harmless(name)
    return None if fields.data.get(name, default) is None else fields.real(name, default)


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `Gemma2ForCausalLM`."""
    return gemma_rules(config, {**NAMES, **NORMS})


def _query_scalar(data: Mapping[str, Any]) -> int:
    """The size of heads; in the 27B model, of 46 layers, the hidden size shared out among them: llama.cpp's rule."""
    return even_head_size(data) if data["num_hidden_layers"] == 46 else int(data["head_dim"])


FAMILY = replace(
    llama_like_family("gemma2", "Gemma2", known_as="Gemma 2", read_config=read_config, weight_rules=weight_rules),
    gguf=llama_like_dialect(
        "gemma2",
        "Gemma2ForCausalLM",
        RMS_EPSILON
        | HEAD_SIZE
        | WINDOW
        | {
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        constants={"hidden_activation": "gelu_pytorch_tanh"},
        computed={"query_pre_attn_scalar": _query_scalar},
        inactive={"attention.sliding_window_pattern": (2,)},
    ),
)
