"""What GPT-2 and those that kept its names have in common: where each weight is stored."""

from __future__ import annotations

from ..config import GPTConfig
from ..weight_rules import AS_STORED, OUT_IN, Layout, WeightRule, module_rules, per_layer


def gpt2_like_rules(
    config: GPTConfig,
    *,
    matrices: Layout = AS_STORED,
    query_key_value: Layout | None = None,
    embeddings: tuple[str, str] = ("wte", "wpe"),
) -> list[WeightRule]:
    """Rules for the names of `GPT2LMHeadModel`.

    Args:
        config: biases are everywhere or nowhere, as its MLP says.
        matrices: how matrices are kept: Conv1D's [in, out], or Linear's [out, in].
        query_key_value: how the fused ones of a layer are; None: as the others, side by side.
        embeddings: names of the tokens' and of the positions' embedding.
    """
    bias, (tokens, positions) = config.mlp_bias, embeddings

    def layer_rules(layer: int) -> list[WeightRule]:
        stored, block = f"transformer.h.{layer}", f"blocks.{layer}"
        fused = [f"{block}.attention.{part}" for part in ("query", "key", "value")]
        return [
            *module_rules(f"{stored}.ln_1", f"{block}.attention_norm", bias=bias),
            *module_rules(f"{stored}.attn.c_attn", *fused, bias=bias, layout=query_key_value or matrices),
            *module_rules(f"{stored}.attn.c_proj", f"{block}.attention.output", bias=bias, layout=matrices),
            *module_rules(f"{stored}.ln_2", f"{block}.mlp_norm", bias=bias),
            *module_rules(f"{stored}.mlp.c_fc", f"{block}.mlp.up", bias=bias, layout=matrices),
            *module_rules(f"{stored}.mlp.c_proj", f"{block}.mlp.down", bias=bias, layout=matrices),
        ]

    return [
        WeightRule(f"transformer.{tokens}.weight", ("token_embedding.weight",)),
        WeightRule(f"transformer.{positions}.weight", ("position_embedding.weight",)),
        *per_layer(config, layer_rules),
        *(module_rules("transformer.ln_f", "final_norm", bias=bias) if config.final_norm else []),
        *([] if config.tied_head else module_rules("lm_head", "head", bias=False, layout=OUT_IN)),
    ]
