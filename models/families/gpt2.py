"""GPT-2: learned positions, LayerNorm before, biases everywhere, one fused matrix for query, key and value."""

from __future__ import annotations

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..family import Family, GgufDialect
from ..weight_rules import WeightRule
from .gpt2_like import gpt2_like_rules


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `GPT2Config`."""
    fields.inactive("n_special", 0)
    # reorder_and_upcast_attn multiplies in another order, for half precision: the same product in float32.
    fields.harmless(
        "reorder_and_upcast_attn", "n_ctx", "resid_pdrop", "embd_pdrop", "attn_pdrop", "predict_special_tokens"
    )
    hidden_size, num_heads = fields.number("n_embd"), fields.number("n_head")
    return GPTConfig(
        family="gpt2",
        vocab_size=fields.number("vocab_size"),
        context_length=fields.number("n_positions"),
        hidden_size=hidden_size,
        num_layers=fields.number("n_layer"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_size=fields.head_size(hidden_size, num_heads),
        intermediate_size=fields.number("n_inner", 4 * hidden_size),
        position="learned",
        norm="layernorm",
        norm_epsilon=fields.real("layer_norm_epsilon", 1e-5),
        activation=fields.activation("activation_function", "gelu_new"),
        attention_scale=None if fields.flag("scale_attn_weights", True) else 1.0,
        attention_scale_by_layer=fields.flag("scale_attn_by_inverse_layer_idx", False),
        tied_head=fields.flag("tie_word_embeddings", True),
    )


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `GPT2LMHeadModel`; its Conv1D keeps matrices [in, out]."""
    return gpt2_like_rules(config)


FAMILY = Family(
    model_type="gpt2",
    known_as="GPT-2, DistilGPT-2, DialoGPT, Cerebras-GPT",
    architectures=("GPT2LMHeadModel", "GPT2Model"),
    read_config=read_config,
    weight_rules=weight_rules,
    prefix="transformer.",
    embedding="transformer.wte.weight",
    ignorable=(r"h\.\d+\.attn\.(bias|masked_bias)",),  # the causal mask
    gguf=GgufDialect(
        architecture="gpt2",
        fields={
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        constants={"architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new"},
        fused_attention=True,
    ),
)
