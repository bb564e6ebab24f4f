"""Llama: rotary positions, RMSNorm, SwiGLU, grouped-query attention; and all that is saved under its name."""

from __future__ import annotations

from dataclasses import replace

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..family import GgufDialect
from .llama_like import llama_like_family, read_llama_like


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
    gguf=GgufDialect(
        architecture="llama",
        fields={
            "context_length": "max_position_embeddings",
            "embedding_length": "hidden_size",
            "block_count": "num_hidden_layers",
            "feed_forward_length": "intermediate_size",
            "attention.head_count": "num_attention_heads",
            "attention.head_count_kv": "num_key_value_heads",
            "attention.layer_norm_rms_epsilon": "rms_norm_eps",
            "attention.key_length": "head_dim",
            "rope.freq_base": "rope_theta",
        },
        constants={"architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
        inactive={
            "rope.scaling.type": ("none",),
            "expert_count": (0,),
            "expert_used_count": (0,),
            "attention.causal": (True,),
            "tensor_data_layout": ("Meta AI original pth",),
        },
        flags={"blk.0.attn_q.bias": "attention_bias", "blk.0.ffn_up.bias": "mlp_bias"},
        regrouped_rotary=True,
    ),
)
