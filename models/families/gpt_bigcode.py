"""GPT-BigCode: GPT-2 with matrices [out, in] and, in the published models, one key head for all queries."""

from __future__ import annotations

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..family import Family
from ..weight_rules import OUT_IN, WeightRule, module_rules, per_layer, query_key_value_by_head


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `GPTBigCodeConfig`."""
    # The softmax is computed in float32 here whatever these say, and scaling before it is undone after it.
    fields.harmless("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32")
    # What the inference code of the first releases was told: memory to set aside, and its own order of steps.
    fields.harmless("inference_runner", "max_batch_size", "max_sequence_length", "pad_key_length",
                    "pre_allocate_kv_cache", "validate_runner_input")  # fmt: skip
    fields.harmless("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_type", "summary_use_proj", "summary_activation",
                    "summary_first_dropout", "summary_proj_to_labels")  # fmt: skip
    hidden_size, num_heads = fields.number("n_embd"), fields.number("n_head")
    num_kv_heads = 1 if fields.flag("multi_query", True) else num_heads
    fields.inactive("num_key_value_heads", num_kv_heads)  # which transformers derives
    return GPTConfig(
        family="gpt_bigcode",
        vocab_size=fields.number("vocab_size"),
        context_length=fields.number("n_positions"),
        hidden_size=hidden_size,
        num_layers=fields.number("n_layer"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=fields.head_size(hidden_size, num_heads),
        intermediate_size=fields.number("n_inner", 4 * hidden_size),
        position="learned",
        norm="layernorm",
        norm_epsilon=fields.real("layer_norm_epsilon", 1e-5),
        activation=fields.activation("activation_function", "gelu_pytorch_tanh"),
        attention_scale=None if fields.flag("scale_attn_weights", True) else 1.0,
        tied_head=fields.flag("tie_word_embeddings", True),
    )


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `GPTBigCodeForCausalLM`; several key heads stand with their queries, a single one behind all."""
    by_head = query_key_value_by_head(config) if config.num_kv_heads > 1 else OUT_IN

    def layer_rules(layer: int) -> list[WeightRule]:
        stored, block = f"transformer.h.{layer}", f"blocks.{layer}"
        attention = tuple(f"{block}.attention.{part}" for part in ("query", "key", "value"))
        return [
            *module_rules(f"{stored}.ln_1", f"{block}.attention_norm"),
            *module_rules(f"{stored}.attn.c_attn", *attention, layout=by_head),
            *module_rules(f"{stored}.attn.c_proj", f"{block}.attention.output", layout=OUT_IN),
            *module_rules(f"{stored}.ln_2", f"{block}.mlp_norm"),
            *module_rules(f"{stored}.mlp.c_fc", f"{block}.mlp.up", layout=OUT_IN),
            *module_rules(f"{stored}.mlp.c_proj", f"{block}.mlp.down", layout=OUT_IN),
        ]

    return [
        WeightRule("transformer.wte.weight", ("token_embedding.weight",)),
        WeightRule("transformer.wpe.weight", ("position_embedding.weight",)),
        *per_layer(config, layer_rules),
        *module_rules("transformer.ln_f", "final_norm"),
        *([] if config.tied_head else [WeightRule("lm_head.weight", ("head.weight",), OUT_IN)]),
    ]


FAMILY = Family(
    model_type="gpt_bigcode",
    known_as="SantaCoder, StarCoder, TinyStarCoder",
    architectures=("GPTBigCodeForCausalLM", "GPTBigCodeModel"),
    read_config=read_config,
    weight_rules=weight_rules,
    prefix="transformer.",
    embedding="transformer.wte.weight",
    ignorable=(r"h\.\d+\.attn\.(bias|masked_bias)",),  # the causal mask
)
