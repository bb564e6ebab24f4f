"""Llama: rotary positions, RMSNorm, SwiGLU, grouped-query attention; and all that is saved under its name."""

from __future__ import annotations

from dataclasses import replace

from ..config import GPTConfig
from ..config_fields import ConfigReader
from .llama_like import llama_like_family, read_llama_like
from .llama_like_gguf import HEAD_SIZE, LONG_ROTARY_FACTORS, RMS_EPSILON, ROTARY_FREQUENCIES, llama_like_dialect


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `LlamaConfig`."""
    fields.harmless("attention_dropout", "is_llama_config")
    fields.harmless("max_sequence_length")  # beside max_position_embeddings in the first conversions; never read
    fields.inactive("rope_interleaved", False)  # nanotron's note; transformers rotates halves whatever it says
    bias = fields.flag("attention_bias", False)
    return replace(
        read_llama_like(fields, "llama"),
        attention_bias=bias,
        attention_output_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )


FAMILY = replace(
    llama_like_family(
        "llama",
        "Llama",
        known_as="Llama 1 to 3.2, TinyLlama, SmolLM2",
        read_config=read_config,
        limits="dynamic scaling of positions: the original context only",
    ),
    architectures=("LlamaForCausalLM", "LlamaModel", "LLaMAForCausalLM"),
    gguf=replace(
        llama_like_dialect(
            "llama",
            "LlamaForCausalLM",
            RMS_EPSILON | HEAD_SIZE,
            constants={"hidden_act": "silu"},
            inactive={"tensor_data_layout": ("Meta AI original pth",), "attention.sliding_window": (0,)},
        ),
        flags={"blk.0.attn_q.bias": "attention_bias", "blk.0.ffn_up.bias": "mlp_bias"},
        rotary_tensors=ROTARY_FREQUENCIES + LONG_ROTARY_FACTORS,
        regrouped_rotary=True,
    ),
)
