"""GPT-J: interleaved rotary positions, attention and MLP side by side behind one norm, a head with a bias."""

from __future__ import annotations

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..family import Family
from ..weight_rules import OUT_IN, WeightRule, module_rules, per_layer


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `GPTJConfig`."""
    fields.inactive("rotary", True)
    fields.inactive("scale_attn_weights", True)
    fields.harmless("n_ctx", "resid_pdrop", "embd_pdrop", "attn_pdrop")
    hidden_size, num_heads = fields.number("n_embd"), fields.number("n_head")
    head_size = fields.head_size(hidden_size, num_heads)
    return GPTConfig(
        family="gptj",
        vocab_size=fields.number("vocab_size"),
        context_length=fields.number("n_positions"),
        hidden_size=hidden_size,
        num_layers=fields.number("n_layer"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_size=head_size,
        intermediate_size=fields.number("n_inner", 4 * hidden_size),
        position="rotary",
        rotary_size=_rotary_size(fields, num_heads),
        rotary_interleaved=True,
        norm="layernorm",
        norm_epsilon=fields.real("layer_norm_epsilon", 1e-5),
        residual="parallel_shared_norm",
        activation=fields.activation("activation_function", "gelu_new"),
        attention_bias=False,
        attention_output_bias=False,
        head_bias=True,
        tied_head=fields.flag("tie_word_embeddings", False),
    )


def _rotary_size(fields: ConfigReader, num_heads: int) -> int | None:
    """`rotary_dim`: 64 when left out; null turns the whole width, which is a head's only where there is one head."""
    if fields.data.get("rotary_dim", 64) is not None:
        return fields.number("rotary_dim", 64)
    if num_heads > 1:
        fields.refuse("rotary_dim", None, f"a number with {num_heads} heads, for which null has no meaning")
    return None


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `GPTJForCausalLM`; its Linear layers keep matrices [out, in]."""

    def layer_rules(layer: int) -> list[WeightRule]:
        stored, block = f"transformer.h.{layer}", f"blocks.{layer}"
        attention, ours = f"{stored}.attn", f"{block}.attention"
        return [
            *module_rules(f"{stored}.ln_1", f"{block}.attention_norm"),
            *module_rules(f"{attention}.q_proj", f"{ours}.query", bias=False, layout=OUT_IN),
            *module_rules(f"{attention}.k_proj", f"{ours}.key", bias=False, layout=OUT_IN),
            *module_rules(f"{attention}.v_proj", f"{ours}.value", bias=False, layout=OUT_IN),
            *module_rules(f"{attention}.out_proj", f"{ours}.output", bias=False, layout=OUT_IN),
            *module_rules(f"{stored}.mlp.fc_in", f"{block}.mlp.up", layout=OUT_IN),
            *module_rules(f"{stored}.mlp.fc_out", f"{block}.mlp.down", layout=OUT_IN),
        ]

    head = [WeightRule("lm_head.bias", ("head.bias",))]
    return [
        WeightRule("transformer.wte.weight", ("token_embedding.weight",)),
        *per_layer(config, layer_rules),
        *module_rules("transformer.ln_f", "final_norm"),
        *(head if config.tied_head else module_rules("lm_head", "head", layout=OUT_IN)),
    ]


FAMILY = Family(
    model_type="gptj",
    known_as="GPT-J",
    architectures=("GPTJForCausalLM", "GPTJModel"),
    read_config=read_config,
    weight_rules=weight_rules,
    prefix="transformer.",
    embedding="transformer.wte.weight",
    ignorable=(r"h\.\d+\.attn\.(bias|masked_bias|embed_positions)",),  # the causal mask, sines and cosines
)
