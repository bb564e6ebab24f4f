"""Gemma: Llama with scaled embeddings, heads of 256, GeGLU, and norms that multiply by one more than their weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..config import Activation, GPTConfig
from ..config_fields import ACTIVATIONS, ConfigReader
from ..rotary_fields import RotaryChoice
from ..weight_rules import PLUS_ONE, WeightRule
from .llama_like import NAMES, Names, llama_like_family, llama_like_rules, read_llama_like, require_kv_heads
from .llama_like_gguf import HEAD_SIZE, RMS_EPSILON, llama_like_dialect

# The releases say "gelu" and were trained with its approximation by tanh.
_RELEASED: Mapping[str, Activation] = {**ACTIVATIONS, "gelu": "gelu_tanh"}


def read_config(fields: ConfigReader) -> GPTConfig:
    """transformers' `GemmaConfig`."""
    return read_gemma_like(fields, "gemma", ("hidden_act", "hidden_activation"), _RELEASED)


def read_gemma_like(
    fields: ConfigReader,
    family: str,
    activation_fields: tuple[str, str] = ("hidden_activation", "hidden_act"),
    activations: Mapping[str, Activation] = ACTIVATIONS,
    *,
    rotary: RotaryChoice | None = None,
) -> GPTConfig:
    """Read what all Gemmas write.

    Args:
        fields: the config.
        family: the name of the family.
        activation_fields: the one that transformers follows, and one that may stand beside it and must say the same.
        activations: the functions by their names.
        rotary: rotary positions, where they are written in a way of the family's own.
    """
    followed, beside = activation_fields
    activation = fields.activation(followed, "gelu_pytorch_tanh", activations)
    if fields.optional(beside) is not None and fields.activation(beside, "", activations) != activation:
        fields.refuse(beside, fields.data[beside], f"what {followed} says, {activation}")
    fields.harmless("attention_dropout", "cache_implementation")
    fields.inactive("use_bidirectional_attention", False, None)
    require_kv_heads(fields)
    bias = fields.flag("attention_bias", False)
    config = read_llama_like(
        fields,
        family,
        activation=activation,
        tied_by_default=True,
        head_size=fields.number("head_dim", 256),
        rotary=rotary,
    )
    return replace(config, attention_bias=bias, attention_output_bias=bias, embedding_scale=config.hidden_size**0.5)


def gemma_rules(config: GPTConfig, names: Names = NAMES) -> list[WeightRule]:
    """Llama's names; all norms are stored without the one that is added to them."""
    return llama_like_rules(config, names, norms=PLUS_ONE)


FAMILY = replace(
    llama_like_family(
        "gemma", "Gemma", known_as="Gemma 2B and 7B, CodeGemma", read_config=read_config, weight_rules=gemma_rules
    ),
    gguf=llama_like_dialect(  # the one is added to the norms already
        "gemma", "GemmaForCausalLM", RMS_EPSILON | HEAD_SIZE, constants={"hidden_act": "gelu_pytorch_tanh"}
    ),
)
