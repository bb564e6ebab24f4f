"""BLOOM: ALiBi in place of positions, a norm on the embedding."""

from __future__ import annotations

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..family import Family, GgufDialect
from ..weight_rules import OUT_IN, WeightRule, module_rules, per_layer, query_key_value_by_head

_TRAINED_LENGTH = 2048  # BigScience 2022, table 3; newer configs do not say it, and ALiBi has no longest text


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `BloomConfig`."""
    fields.inactive("slow_but_exact", False)  # would leave out biases where pretraining_tp is over 1
    fields.inactive("skip_bias_add_qkv", False)
    fields.inactive("n_inner", None)
    fields.harmless("hidden_dropout", "attention_dropout", "unk_token_id")
    # How Megatron-DeepSpeed computed the same numbers.
    fields.harmless("attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi",
                    "skip_bias_add")  # fmt: skip
    hidden_size = fields.number(fields.name_of("hidden_size", "n_embed"))
    num_heads = fields.number(fields.name_of("n_head", "num_attention_heads"))
    return GPTConfig(
        family="bloom",
        vocab_size=fields.number("vocab_size"),
        context_length=fields.number("seq_length", _TRAINED_LENGTH),
        hidden_size=hidden_size,
        num_layers=fields.number(fields.name_of("n_layer", "num_hidden_layers")),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_size=fields.head_size(hidden_size, num_heads),
        intermediate_size=4 * hidden_size,
        position="alibi",
        embedding_norm=True,
        norm="layernorm",
        norm_epsilon=fields.real("layer_norm_epsilon", 1e-5),
        residual_from_norm=fields.flag("apply_residual_connection_post_layernorm", False),
        activation="gelu_tanh",
        tied_head=fields.flag("tie_word_embeddings", True),
    )


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `BloomForCausalLM`; its Linear layers keep matrices [out, in]."""
    by_head = query_key_value_by_head(config)

    def layer_rules(layer: int) -> list[WeightRule]:
        stored, block = f"transformer.h.{layer}", f"blocks.{layer}"
        attention = [f"{block}.attention.{part}" for part in ("query", "key", "value")]
        return [
            *module_rules(f"{stored}.input_layernorm", f"{block}.attention_norm"),
            *module_rules(f"{stored}.self_attention.query_key_value", *attention, layout=by_head),
            *module_rules(f"{stored}.self_attention.dense", f"{block}.attention.output", layout=OUT_IN),
            *module_rules(f"{stored}.post_attention_layernorm", f"{block}.mlp_norm"),
            *module_rules(f"{stored}.mlp.dense_h_to_4h", f"{block}.mlp.up", layout=OUT_IN),
            *module_rules(f"{stored}.mlp.dense_4h_to_h", f"{block}.mlp.down", layout=OUT_IN),
        ]

    return [
        WeightRule("transformer.word_embeddings.weight", ("token_embedding.weight",)),
        *module_rules("transformer.word_embeddings_layernorm", "embedding_norm"),
        *per_layer(config, layer_rules),
        *module_rules("transformer.ln_f", "final_norm"),
        *([] if config.tied_head else module_rules("lm_head", "head", bias=False, layout=OUT_IN)),
    ]


FAMILY = Family(
    model_type="bloom",
    known_as="BLOOM, BLOOMZ",
    architectures=("BloomForCausalLM", "BloomModel"),
    read_config=read_config,
    weight_rules=weight_rules,
    prefix="transformer.",
    embedding="transformer.word_embeddings.weight",
    ignorable=(r"h\.\d+\.self_attention\.scale_mask_softmax\.causal_mask",),
    gguf=GgufDialect(
        architecture="bloom",
        fields={
            "context_length": "seq_length",
            "embedding_length": "hidden_size",
            "block_count": "n_layer",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        constants={"architectures": ["BloomForCausalLM"]},
        repeated={
            "feed_forward_length": lambda data: 4 * data["hidden_size"],
            "attention.head_count_kv": lambda data: data["n_head"],
        },
        fused_attention=True,
    ),
)
