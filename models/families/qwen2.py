"""Qwen2: Llama with biases of query, key and value, and in some layers a sliding window."""

from __future__ import annotations

from dataclasses import replace

from ..config import GPTConfig
from ..config_fields import ConfigReader
from .llama_like import llama_like_family, read_llama_like, require_kv_heads, window_of, windows_by_layer
from .llama_like_gguf import HEAD_SIZE, RMS_EPSILON, llama_like_dialect


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `Qwen2Config`."""
    fields.harmless("attention_dropout")
    fields.inactive("use_mrope", False)
    require_kv_heads(fields)
    return replace(read_llama_like(fields, "qwen2"), attention_bias=True, windows=qwen_windows(fields))


def qwen_windows(fields: ConfigReader) -> tuple[int, ...]:
    """The windows of Qwen's configs: from `max_window_layers` on, where `use_sliding_window` says so."""
    fields.harmless("sliding_window")
    first = fields.number("max_window_layers", 28, least=0)
    window = window_of(fields, default=4096) if fields.flag("use_sliding_window", False) else None
    return windows_by_layer(fields, fields.number("num_hidden_layers"), window, lambda layer: layer >= first)


FAMILY = replace(
    llama_like_family("qwen2", "Qwen2", known_as="Qwen1.5, Qwen2, Qwen2.5", read_config=read_config),
    gguf=llama_like_dialect(
        "qwen2",
        "Qwen2ForCausalLM",
        RMS_EPSILON | HEAD_SIZE,
        constants={"hidden_act": "silu", "use_sliding_window": False},
    ),
)
