"""OPT: learned positions behind two rows that nobody looks up; OPT-350M has norms after, and a narrower embedding."""

from __future__ import annotations

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..family import Family
from ..weight_rules import OUT_IN, WeightRule, behind_rows, module_rules, per_layer

_POSITION_OFFSET = 2  # rows that fairseq kept for padding


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `OPTConfig`."""
    fields.inactive("layer_norm_elementwise_affine", True)
    fields.inactive("learned_embeddings", True)  # of the framework that trained Galactica
    fields.inactive("scale_embeddings", False)
    fields.harmless("dropout", "attention_dropout", "activation_dropout", "layerdrop", "init_std")
    hidden_size, num_heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    embedding_size = fields.number("word_embed_proj_dim", hidden_size)
    bias, norm_before = fields.flag("enable_bias", True), fields.flag("do_layer_norm_before", True)
    without_final_norm = fields.flag("_remove_final_layer_norm", False)
    return GPTConfig(
        family="opt",
        vocab_size=fields.number("vocab_size"),
        context_length=fields.number("max_position_embeddings"),
        hidden_size=hidden_size,
        num_layers=fields.number("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_size=fields.head_size(hidden_size, num_heads),
        intermediate_size=fields.number("ffn_dim"),
        position="learned",
        embedding_size=None if embedding_size == hidden_size else embedding_size,
        norm="layernorm",
        norm_place="before" if norm_before else "after",
        final_norm=norm_before and not without_final_norm,
        activation=fields.activation("activation_function", "relu"),
        attention_bias=bias,
        attention_output_bias=bias,
        mlp_bias=bias,
        tied_head=fields.flag("tie_word_embeddings", True),
    )


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `OPTForCausalLM`; its Linear layers keep matrices [out, in]."""
    matrices = {
        "self_attn.q_proj": "attention.query",
        "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value",
        "self_attn.out_proj": "attention.output",
        "fc1": "mlp.up",
        "fc2": "mlp.down",
    }

    def layer_rules(layer: int) -> list[WeightRule]:
        stored, block = f"model.decoder.layers.{layer}", f"blocks.{layer}"
        rules = [
            *module_rules(f"{stored}.self_attn_layer_norm", f"{block}.attention_norm"),
            *module_rules(f"{stored}.final_layer_norm", f"{block}.mlp_norm"),
        ]
        for theirs, ours in matrices.items():
            rules += module_rules(f"{stored}.{theirs}", f"{block}.{ours}", bias=config.mlp_bias, layout=OUT_IN)
        return rules

    projections = [
        *module_rules("model.decoder.project_in", "input_projection", bias=False, layout=OUT_IN),
        *module_rules("model.decoder.project_out", "output_projection", bias=False, layout=OUT_IN),
    ]
    positions = ("position_embedding.weight",)
    return [
        WeightRule("model.decoder.embed_tokens.weight", ("token_embedding.weight",)),
        WeightRule("model.decoder.embed_positions.weight", positions, behind_rows(_POSITION_OFFSET)),
        *([] if config.embedding_size is None else projections),
        *per_layer(config, layer_rules),
        *(module_rules("model.decoder.final_layer_norm", "final_norm") if config.final_norm else []),
        *([] if config.tied_head else module_rules("lm_head", "head", bias=False, layout=OUT_IN)),
    ]


FAMILY = Family(
    model_type="opt",
    known_as="OPT, Galactica",
    architectures=("OPTForCausalLM", "OPTModel"),
    read_config=read_config,
    weight_rules=weight_rules,
    prefix="model.",
    embedding="model.decoder.embed_tokens.weight",
    ignorable=(r"decoder\.version",),  # of fairseq's format
)
