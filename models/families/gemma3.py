"""Gemma 3, its text models: Gemma 2 with norms over queries and keys, and rotary positions of two bases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..rotary_fields import RotaryChoice, read_rotary
from ..weight_rules import WeightRule
from .gemma import gemma_rules, read_gemma_like
from .gemma2 import NORMS, soft_cap_of
from .llama_like import HEAD_NORMS, NAMES, llama_like_family, window_of, windows_by_layer
from .llama_like_gguf import HEAD_SIZE, RMS_EPSILON, WINDOW, even_head_size, llama_like_dialect


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `Gemma3TextConfig`."""
    every = fields.number(fields.name_of("sliding_window_pattern", "_sliding_window_pattern"), 6)
    fields.inactive("attn_logit_softcapping", None)  # Gemma 3 has none; transformers reads it and caps nothing
    rotary, local_theta = _rotary(fields)
    config = read_gemma_like(fields, "gemma3_text", rotary=rotary)
    windows = windows_by_layer(
        fields, config.num_layers, window_of(fields, default=4096), lambda layer: (layer + 1) % every != 0
    )
    return replace(
        config,
        norm_place="both",
        query_key_norm="shared",
        attention_scale=fields.real("query_pre_attn_scalar", 256.0) ** -0.5,
        logit_softcap=soft_cap_of(fields, "final_logit_softcapping"),
        windows=windows,
        local_rotary_theta=local_theta if windows else None,
    )


def _rotary(fields: ConfigReader) -> tuple[RotaryChoice, float]:
    """Positions of layers that see everything, and the base of those with a window, which are never scaled."""
    head_size, max_positions = fields.number("head_dim", 256), fields.number("max_position_embeddings")
    rotary = read_rotary(
        fields,
        head_size=head_size,
        max_positions=max_positions,
        default_theta=1_000_000.0,
        layer_type="full_attention",
    )
    local = read_rotary(
        fields,
        head_size=head_size,
        max_positions=max_positions,
        theta_fields=("rope_local_base_freq",),
        layer_type="sliding_attention",
        places=("rope_parameters",),
    )
    if local.scaling is not None or local.context_length != max_positions:
        fields.refuse("rope_parameters", fields.data["rope_parameters"], "no scaling under sliding_attention")
    return rotary, local.theta


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `Gemma3ForCausalLM`."""
    return gemma_rules(config, {**NAMES, **NORMS, **HEAD_NORMS})


def _query_scalar(data: Mapping[str, Any]) -> int:
    """The size of heads; in the 27B model, of 62 layers, the hidden size shared out among them: llama.cpp's rule."""
    return even_head_size(data) if data["num_hidden_layers"] == 62 else int(data["head_dim"])


def _layer_types(data: Mapping[str, Any]) -> list[str] | None:
    """Without a window in the file no layer slides; None: by the pattern."""
    return None if data.get("sliding_window") else ["full_attention"] * data["num_hidden_layers"]


FAMILY = replace(
    llama_like_family(
        "gemma3_text",
        "Gemma3",
        known_as="Gemma 3 270M and 1B",
        read_config=read_config,
        weight_rules=weight_rules,
        limits="text models; with vision (gemma3) no",
    ),
    gguf=llama_like_dialect(
        "gemma3",
        "Gemma3ForCausalLM",
        RMS_EPSILON
        | HEAD_SIZE
        | WINDOW
        | {
            "attention.sliding_window_pattern": "sliding_window_pattern",
            "rope.freq_base_swa": "rope_local_base_freq",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        constants={"hidden_activation": "gelu_pytorch_tanh", "rope_theta": 10000.0},
        computed={"query_pre_attn_scalar": _query_scalar, "layer_types": _layer_types},
    ),
)
