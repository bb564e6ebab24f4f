"""Llama, and Mistral where no sliding window is active: rotary positions, RMSNorm, SwiGLU, grouped-query attention."""

from __future__ import annotations

from dataclasses import replace

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..family import Family, GgufDialect
from ..rotary_fields import read_rotary
from ..weight_rules import OUT_IN, WeightRule, per_layer


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `LlamaConfig`."""
    fields.harmless("attention_dropout", "is_llama_config")
    fields.inactive("rope_interleaved", False)  # nanotron's note; transformers rotates halves whatever it says
    hidden_size, num_heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    head_size = fields.head_size(hidden_size, num_heads, "head_dim")
    rotary = read_rotary(fields, head_size=head_size, max_positions=fields.number("max_position_embeddings"))
    attention_bias = fields.flag("attention_bias", False)
    return GPTConfig(
        family="llama",
        vocab_size=fields.number("vocab_size"),
        context_length=rotary.context_length,
        hidden_size=hidden_size,
        num_layers=fields.number("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=fields.number("num_key_value_heads", num_heads),
        head_size=head_size,
        intermediate_size=fields.number("intermediate_size"),
        position="rotary",
        rotary_theta=rotary.theta,
        rotary_scaling=rotary.scaling,
        norm="rmsnorm",
        norm_epsilon=fields.real("rms_norm_eps", 1e-6),
        norm_bias=False,
        activation=fields.activation("hidden_act", "silu"),
        gated_mlp=True,
        attention_bias=attention_bias,
        attention_output_bias=attention_bias,
        mlp_bias=fields.flag("mlp_bias", False),
        tied_head=fields.flag("tie_word_embeddings", False),
    )


def read_mistral_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `MistralConfig`, whose sliding window must be off or as wide as the context."""
    for bias in ("attention_bias", "mlp_bias"):
        fields.inactive(bias, False)  # Mistral has none, whatever a config says
    fields.number("num_key_value_heads")  # versions of transformers differ in the default: it must be said
    config = replace(read_config(fields), family="mistral")
    if fields.data.get("sliding_window", 4096) is not None:  # null is none; left out, it is MistralConfig's default
        window = fields.number("sliding_window", 4096)
        if window < config.context_length:
            fields.refuse("sliding_window", window, f"null or at least the context ({config.context_length})")
    fields.inactive("layer_types", None, ["full_attention"] * config.num_layers)
    return config


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `LlamaForCausalLM`; its Linear layers keep matrices [out, in]."""
    matrices = {
        "self_attn.q_proj": ("attention.query", config.attention_bias),
        "self_attn.k_proj": ("attention.key", config.attention_bias),
        "self_attn.v_proj": ("attention.value", config.attention_bias),
        "self_attn.o_proj": ("attention.output", config.attention_output_bias),
        "mlp.gate_proj": ("mlp.gate", config.mlp_bias),
        "mlp.up_proj": ("mlp.up", config.mlp_bias),
        "mlp.down_proj": ("mlp.down", config.mlp_bias),
    }

    def layer_rules(layer: int) -> list[WeightRule]:
        stored, block = f"model.layers.{layer}", f"blocks.{layer}"
        rules = [
            WeightRule(f"{stored}.input_layernorm.weight", (f"{block}.attention_norm.weight",)),
            WeightRule(f"{stored}.post_attention_layernorm.weight", (f"{block}.mlp_norm.weight",)),
        ]
        for theirs, (ours, has_bias) in matrices.items():
            rules.append(WeightRule(f"{stored}.{theirs}.weight", (f"{block}.{ours}.weight",), OUT_IN))
            if has_bias:
                rules.append(WeightRule(f"{stored}.{theirs}.bias", (f"{block}.{ours}.bias",)))
        return rules

    return [
        WeightRule("model.embed_tokens.weight", ("token_embedding.weight",)),
        *per_layer(config, layer_rules),
        WeightRule("model.norm.weight", ("final_norm.weight",)),
        *([] if config.tied_head else [WeightRule("lm_head.weight", ("head.weight",), OUT_IN)]),
    ]


LLAMA = Family(
    model_type="llama",
    architectures=("LlamaForCausalLM", "LlamaModel", "LLaMAForCausalLM"),
    read_config=read_config,
    weight_rules=weight_rules,
    prefix="model.",
    embedding="model.embed_tokens.weight",
    ignorable=(r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
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

MISTRAL = replace(
    LLAMA,
    model_type="mistral",
    architectures=("MistralForCausalLM", "MistralModel"),
    read_config=read_mistral_config,
    gguf=None,  # llama.cpp writes Mistral as llama
)
