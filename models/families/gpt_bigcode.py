"""GPT-BigCode: GPT-2 with matrices [out, in] and, in the published models, one key head for all queries."""

from __future__ import annotations

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..family import Family
from ..weight_rules import OUT_IN, WeightRule, query_key_value_by_head
from .gpt2_like import gpt2_like_rules


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
    by_head = query_key_value_by_head(config) if config.num_kv_heads > 1 else None
    return gpt2_like_rules(config, matrices=OUT_IN, query_key_value=by_head)


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
