"""GPT-Neo: GPT-2's parts with unscaled scores, and layers that see a window of the last positions alone."""

from __future__ import annotations

from typing import Any

from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..family import Family
from ..weight_rules import OUT_IN, WeightRule, module_rules, per_layer

_DEFAULT_TYPES = [[["global", "local"], 12]]


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `GPTNeoConfig`."""
    fields.harmless("resid_dropout", "embed_dropout", "attention_dropout", "classifier_dropout")
    hidden_size, num_heads = fields.number("hidden_size"), fields.number("num_heads")
    num_layers, context_length = fields.number("num_layers"), fields.number("max_position_embeddings")
    return GPTConfig(
        family="gpt_neo",
        vocab_size=fields.number("vocab_size"),
        context_length=context_length,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_size=fields.head_size(hidden_size, num_heads),
        intermediate_size=fields.number("intermediate_size", 4 * hidden_size),
        position="learned",
        norm="layernorm",
        norm_epsilon=fields.real("layer_norm_epsilon", 1e-5),
        activation=fields.activation("activation_function", "gelu_new"),
        attention_bias=False,
        attention_scale=1.0,
        windows=_windows(fields, num_layers, context_length),
        tied_head=fields.flag("tie_word_embeddings", True),
    )


def _windows(fields: ConfigReader, num_layers: int, context_length: int) -> tuple[int, ...]:
    """The window of each layer, 0 where it is as wide as the context; empty where all are."""
    kinds, types = fields.optional("attention_layers"), fields.optional("attention_types")
    if kinds is None or types is not None:
        spelled = _spell_out(fields, _DEFAULT_TYPES if types is None else types)
        if kinds not in (None, spelled):
            fields.refuse("attention_layers", kinds, f"what attention_types says: {spelled}")
        kinds = spelled
    if not isinstance(kinds, list) or len(kinds) != num_layers or not {*map(str, kinds)} <= {"global", "local"}:
        fields.refuse("attention_layers", kinds, f"'global' or 'local' for each layer (num_layers is {num_layers})")
    window = fields.number("window_size", 256)
    if "local" not in kinds or window >= context_length:
        return ()
    return tuple(window if kind == "local" else 0 for kind in kinds)


def _spell_out(fields: ConfigReader, types: Any) -> list[str]:
    """[[["global", "local"], 2]] to the kinds of four layers."""
    try:
        return [kind for kinds, times in types for _ in range(times) for kind in kinds]
    except (TypeError, ValueError):
        fields.refuse("attention_types", types, f"pairs of kinds and how often they come, as in {_DEFAULT_TYPES}")


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of `GPTNeoForCausalLM`; its Linear layers keep matrices [out, in]."""

    def layer_rules(layer: int) -> list[WeightRule]:
        stored, block = f"transformer.h.{layer}", f"blocks.{layer}"
        attention, ours = f"{stored}.attn.attention", f"{block}.attention"
        return [
            *module_rules(f"{stored}.ln_1", f"{block}.attention_norm"),
            *module_rules(f"{attention}.q_proj", f"{ours}.query", bias=False, layout=OUT_IN),
            *module_rules(f"{attention}.k_proj", f"{ours}.key", bias=False, layout=OUT_IN),
            *module_rules(f"{attention}.v_proj", f"{ours}.value", bias=False, layout=OUT_IN),
            *module_rules(f"{attention}.out_proj", f"{ours}.output", layout=OUT_IN),
            *module_rules(f"{stored}.ln_2", f"{block}.mlp_norm"),
            *module_rules(f"{stored}.mlp.c_fc", f"{block}.mlp.up", layout=OUT_IN),
            *module_rules(f"{stored}.mlp.c_proj", f"{block}.mlp.down", layout=OUT_IN),
        ]

    return [
        WeightRule("transformer.wte.weight", ("token_embedding.weight",)),
        WeightRule("transformer.wpe.weight", ("position_embedding.weight",)),
        *per_layer(config, layer_rules),
        *module_rules("transformer.ln_f", "final_norm"),
        *([] if config.tied_head else module_rules("lm_head", "head", bias=False, layout=OUT_IN)),
    ]


FAMILY = Family(
    model_type="gpt_neo",
    known_as="GPT-Neo, TinyStories",
    architectures=("GPTNeoForCausalLM", "GPTNeoModel"),
    read_config=read_config,
    weight_rules=weight_rules,
    prefix="transformer.",
    embedding="transformer.wte.weight",
    ignorable=(r"h\.\d+\.attn\.attention\.(bias|masked_bias)",),  # the causal mask
)
