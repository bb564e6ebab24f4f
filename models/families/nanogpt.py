"""nanoGPT's `ckpt.pt`: GPT-2 with the exact GELU, Linear layers, and biases everywhere or nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...runtime.errors import CheckpointError
from ..config import GPTConfig
from ..config_fields import ConfigReader
from ..family import Family
from ..training_layout import TrainingContent, TrainingLayout
from ..weight_rules import OUT_IN, WeightRule
from .gpt2_like import gpt2_like_rules

_COMPILED = "_orig_mod."  # what torch.compile puts before every name


def read_config(fields: ConfigReader) -> GPTConfig:
    """nanoGPT's `GPTConfig`, kept as `model_args`."""
    fields.harmless("dropout")
    if fields.optional("bias") is None:
        # Its first versions had no such choice, and another GELU, which no file tells apart.
        raise CheckpointError(f"{fields.origin} has no bias: expected true or false, as nanoGPT saves since 2023")
    hidden_size, num_heads, bias = fields.number("n_embd"), fields.number("n_head"), fields.flag("bias", True)
    return GPTConfig(
        family="nanogpt",
        vocab_size=fields.number("vocab_size"),
        context_length=fields.number("block_size"),
        hidden_size=hidden_size,
        num_layers=fields.number("n_layer"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_size=fields.head_size(hidden_size, num_heads),
        intermediate_size=4 * hidden_size,
        position="learned",
        norm="layernorm",
        norm_bias=bias,
        activation="gelu",
        attention_bias=bias,
        attention_output_bias=bias,
        mlp_bias=bias,
        tied_head=True,
    )


def weight_rules(config: GPTConfig) -> list[WeightRule]:
    """The names of nanoGPT's `GPT`; its Linear layers keep matrices [out, in]."""
    return gpt2_like_rules(config, matrices=OUT_IN)


FAMILY = Family(
    model_type="nanogpt",
    architectures=(),
    read_config=read_config,
    weight_rules=weight_rules,
    embedding="transformer.wte.weight",
    ignorable=(r"transformer\.h\.\d+\.attn\.bias",),  # the causal mask, where PyTorch had no fused attention
)


def read(content: Mapping[str, Any], origin: str) -> TrainingContent:
    """Names and sizes of one `ckpt.pt`."""
    model, sizes = content["model"], content["model_args"]
    if not isinstance(sizes, Mapping) or not isinstance(model, Mapping):
        raise CheckpointError(f"{origin}: model and model_args are expected to be objects, as nanoGPT's train.py saves")
    tensors = {str(name).removeprefix(_COMPILED): tensor for name, tensor in model.items()}
    odd = [name for name, tensor in tensors.items() if not isinstance(tensor, torch.Tensor)]
    if odd or len(tensors) != len(model):
        raise CheckpointError(f"{origin}: model holds {odd[:1] or 'a name twice'}, expected tensors by name")
    return TrainingContent(FAMILY, sizes, tensors)


NANOGPT = TrainingLayout(
    kind="nanogpt",
    looks_like="model and model_args (nanoGPT)",
    recognizes=lambda content: "model" in content and "model_args" in content,
    read=read,
)
