"""GPT-1: GPT-2's parts with each norm on the sum with the residual, and none at the end."""

from __future__ import annotations

from collections.abc import Mapping

from ..config import Activation, GPTConfig
from ..config_fields import ConfigReader
from ..family import Family
from ..weight_rules import WeightRule
from .gpt2_like import gpt2_like_rules

# What this family's code calls "gelu" is the tanh form.
_ACTIVATIONS: Mapping[str, Activation] = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `OpenAIGPTConfig`."""
    fields.inactive("n_special", 0)
    fields.harmless("n_ctx", "resid_pdrop", "embd_pdrop", "attn_pdrop", "predict_special_tokens")
    hidden_size, num_heads = fields.number("n_embd"), fields.number("n_head")
    return GPTConfig(
        family="openai-gpt",
        vocab_size=fields.number("vocab_size"),
        context_length=fields.number("n_positions"),
        hidden_size=hidden_size,
        num_layers=fields.number("n_layer"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_size=fields.head_size(hidden_size, num_heads),
        intermediate_size=4 * hidden_size,
        position="learned",
        norm="layernorm",
        norm_epsilon=fields.real("layer_norm_epsilon", 1e-5),
        norm_place="after",
        final_norm=False,
        activation=fields.activation("afn", "gelu", _ACTIVATIONS),
        tied_head=fields.flag("tie_word_embeddings", True),
    )


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `OpenAIGPTLMHeadModel`; its Conv1D keeps matrices [in, out]."""
    return gpt2_like_rules(config, embeddings=("tokens_embed", "positions_embed"))


FAMILY = Family(
    model_type="openai-gpt",
    known_as="GPT-1",
    architectures=("OpenAIGPTLMHeadModel", "OpenAIGPTModel"),
    read_config=read_config,
    weight_rules=weight_rules,
    prefix="transformer.",
    embedding="transformer.tokens_embed.weight",
    ignorable=(r"h\.\d+\.attn\.bias", "position_ids"),  # the causal mask, and 0, 1, 2, …
)
