"""GPT-NeoX (Pythia): partial rotary positions, attention and MLP side by side with a norm each, or in turn."""

from __future__ import annotations

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..family import Family, GgufDialect
from ..rotary_fields import read_rotary
from ..weight_rules import OUT_IN, WeightRule, module_rules, per_layer, query_key_value_by_head
from .llama_like_gguf import even_head_size


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `GPTNeoXConfig`."""
    fields.harmless("attention_dropout", "hidden_dropout", "classifier_dropout")
    fields.harmless("attention_probs_dropout_prob", "hidden_dropout_prob")  # as GPT-NeoX-20B's own file calls them
    hidden_size, num_heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    head_size = fields.head_size(hidden_size, num_heads)
    rotary = read_rotary(
        fields,
        head_size=head_size,
        max_positions=fields.number("max_position_embeddings"),
        theta_fields=("rotary_emb_base", "rope_theta"),
        share_fields=("rotary_pct", "partial_rotary_factor"),
        default_share=0.25,
    )
    attention_bias = fields.flag("attention_bias", True)
    return GPTConfig(
        family="gpt_neox",
        vocab_size=fields.number("vocab_size"),
        context_length=rotary.context_length,
        hidden_size=hidden_size,
        num_layers=fields.number("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_size=head_size,
        intermediate_size=fields.number("intermediate_size"),
        position="rotary",
        rotary_theta=rotary.theta,
        rotary_scaling=rotary.scaling,
        rotary_size=rotary.size,
        norm="layernorm",
        norm_epsilon=fields.real("layer_norm_eps", 1e-5),
        residual="parallel" if fields.flag("use_parallel_residual", True) else "sequential",
        activation=fields.activation("hidden_act", "gelu"),
        attention_bias=attention_bias,
        attention_output_bias=attention_bias,
        tied_head=fields.flag("tie_word_embeddings", False),
    )


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `GPTNeoXForCausalLM`; its Linear layers keep matrices [out, in]."""
    by_head, bias = query_key_value_by_head(config), config.attention_bias

    def layer_rules(layer: int) -> list[WeightRule]:
        stored, block = f"gpt_neox.layers.{layer}", f"blocks.{layer}"
        attention = [f"{block}.attention.{part}" for part in ("query", "key", "value")]
        return [
            *module_rules(f"{stored}.input_layernorm", f"{block}.attention_norm"),
            *module_rules(f"{stored}.attention.query_key_value", *attention, bias=bias, layout=by_head),
            *module_rules(f"{stored}.attention.dense", f"{block}.attention.output", bias=bias, layout=OUT_IN),
            *module_rules(f"{stored}.post_attention_layernorm", f"{block}.mlp_norm"),
            *module_rules(f"{stored}.mlp.dense_h_to_4h", f"{block}.mlp.up", layout=OUT_IN),
            *module_rules(f"{stored}.mlp.dense_4h_to_h", f"{block}.mlp.down", layout=OUT_IN),
        ]

    return [
        WeightRule("gpt_neox.embed_in.weight", ("token_embedding.weight",)),
        *per_layer(config, layer_rules),
        *module_rules("gpt_neox.final_layer_norm", "final_norm"),
        *([] if config.tied_head else module_rules("embed_out", "head", bias=False, layout=OUT_IN)),
    ]


FAMILY = Family(
    model_type="gpt_neox",
    known_as="GPT-NeoX, Pythia, Dolly 2, RedPajama-INCITE",
    architectures=("GPTNeoXForCausalLM", "GPTNeoXModel"),
    read_config=read_config,
    weight_rules=weight_rules,
    prefix="gpt_neox.",
    head="embed_out.weight",
    embedding="gpt_neox.embed_in.weight",
    # The causal mask and the rotary frequencies.
    ignorable=(r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)", r"rotary_emb\.inv_freq"),
    gguf=GgufDialect(
        architecture="gptneox",
        fields={
            "context_length": "max_position_embeddings",
            "embedding_length": "hidden_size",
            "block_count": "num_hidden_layers",
            "feed_forward_length": "intermediate_size",
            "attention.head_count": "num_attention_heads",
            "attention.layer_norm_epsilon": "layer_norm_eps",
            "use_parallel_residual": "use_parallel_residual",
            "rope.freq_base": "rotary_emb_base",
        },
        constants={"architectures": ["GPTNeoXForCausalLM"], "rotary_pct": 1.0},
        # GPT-NeoX-20B, of 44 layers, is the one that was trained with the approximation by tanh.
        computed={"hidden_act": lambda data: "gelu_fast" if data["num_hidden_layers"] == 44 else "gelu"},
        repeated={
            "attention.head_count_kv": lambda data: data["num_attention_heads"],
            "attention.key_length": even_head_size,
        },
        flags={"blk.0.attn_qkv.bias": "attention_bias"},
        fused_attention=True,
        rotary_share="rotary_pct",
        rotary_scaling=True,
    ),
)
