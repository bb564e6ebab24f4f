"""Mistral: Llama without biases, seeing a sliding window in every layer or, since 0.2, all of the text."""

from __future__ import annotations

from dataclasses import replace

from ..config import GPTConfig
from ..config_fields import ConfigReader
from .llama_like import llama_like_family, read_llama_like, require_kv_heads, window_of, windows_everywhere
from .llama_like_gguf import HEAD_SIZE, RMS_EPSILON, ROTARY_FREQUENCIES, WINDOW, llama_like_dialect


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `MistralConfig`."""
    fields.harmless("attention_dropout")
    fields.inactive("attention_bias", False)  # Mistral has none, whatever a config says
    fields.inactive("mlp_bias", False)
    require_kv_heads(fields)
    config = read_llama_like(fields, "mistral")
    window = window_of(fields, default=4096)
    kind = "full_attention" if window is None else "sliding_attention"
    fields.inactive("layer_types", None, [kind] * config.num_layers)  # transformers asks the window alone
    return replace(config, windows=windows_everywhere(window, config))


FAMILY = replace(
    llama_like_family("mistral", "Mistral", known_as="Mistral 7B", read_config=read_config),
    # GGUF has no name for it: without a window it is a Llama, under whose name conversions write it.
    gguf=replace(
        llama_like_dialect(
            "llama", "MistralForCausalLM", RMS_EPSILON | HEAD_SIZE | WINDOW, constants={"hidden_act": "silu"}
        ),
        marked_by="attention.sliding_window",
        rotary_tensors=ROTARY_FREQUENCIES,
        regrouped_rotary=True,
    ),
)
