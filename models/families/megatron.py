"""Megatron-LM's `model_optim_rng.pt`: its GPT of one rank, whose order of query, key and value depends on the version.

Order of the rows of `query_key_value`: version 0 keeps all queries, all keys, all values; 1.0 keeps
[heads, head_size, 3]; 2.0 and 3.0 keep [heads, 3, head_size], or [groups, heads per group + 2, head_size].
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...runtime.errors import CheckpointError, UnsupportedModelError
from ..config import Activation, GPTConfig
from ..config_fields import ConfigReader
from ..family import Family
from ..training_layout import TrainingContent, TrainingLayout
from ..weight_rules import AS_STORED, OUT_IN, Layout, Shape, WeightRule, per_layer, query_key_value_by_head

_VERSIONS = (0.0, 1.0, 2.0, 3.0)
# The released 345M model keeps no arguments; these are its, with GELU as it was then.
_RELEASED = {
    "num_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "max_position_embeddings": 1024,
    "openai_gelu": True,
}
# Arguments that change the network: (name, values under which they do not).
_INACTIVE: Mapping[str, tuple[Any, ...]] = {
    "tensor_model_parallel_size": (1, None),
    "model_parallel_size": (1, None),
    "pipeline_model_parallel_size": (1, None),
    "apply_residual_connection_post_layernorm": (False, None),
    "apply_layernorm_1p": (False, None),
    "squared_relu": (False, None),
    "quick_geglu": (False, None),
    "qk_layernorm": (False, None),
    "qk_l2_norm": (False, None),
    "num_experts": (None, 0, 1, []),
    "window_size": (None,),
    "multi_latent_attention": (False, None),
    "attention_output_gate": (False, None),
    "softmax_type": ("vanilla", None),
    "retro_add_retriever": (False, None),
    "rotary_seq_len_interpolation_factor": (None, 1),
    "use_rope_scaling": (False, None),
    "no_rope_freq": (None,),
    "heterogeneous_layers_config_path": (None,),
}
# Names of later versions, as the earlier ones were.
_RENAMED = (
    (r"^transformer\.", "encoder."),
    (r"\.attention\.", ".self_attention."),
    (r"\.input_norm\.", ".input_layernorm."),
    (r"\.post_attention_norm\.", ".post_attention_layernorm."),
    (r"\.final_norm\.", ".final_layernorm."),
)


def read_config(fields: ConfigReader) -> GPTConfig:
    """Megatron-LM's arguments. Most are about training; those known to change the network are used or refused."""
    for name, values in _INACTIVE.items():
        fields.inactive(name, *values)
    hidden_size, num_heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    gated, bias = fields.flag("swiglu", False), fields.flag("add_bias_linear", True)
    head_size = fields.head_size(hidden_size, num_heads, "kv_channels")
    rotary = _is_rotary(fields)
    share = fields.real("rotary_percent", 1.0) if rotary else 1.0
    norm = fields.optional("normalization") or "LayerNorm"
    if norm not in ("LayerNorm", "RMSNorm"):
        fields.refuse("normalization", norm, "'LayerNorm' or 'RMSNorm'")
    config = GPTConfig(
        family="megatron",
        vocab_size=fields.number("padded_vocab_size"),
        context_length=fields.number("max_position_embeddings"),
        hidden_size=hidden_size,
        num_layers=fields.number("num_layers"),
        num_heads=num_heads,
        num_kv_heads=fields.number("num_query_groups") if fields.flag("group_query_attention", False) else num_heads,
        head_size=head_size,
        intermediate_size=fields.number("ffn_hidden_size", None if gated else 4 * hidden_size),
        position="rotary" if rotary else "learned",
        rotary_theta=fields.real("rotary_base", 10000.0) if rotary else 10000.0,
        rotary_size=int(head_size * share) if share < 1 else None,
        rotary_interleaved=rotary and fields.flag("rotary_interleaved", False),
        norm="rmsnorm" if norm == "RMSNorm" else "layernorm",
        norm_bias=norm == "LayerNorm",
        norm_epsilon=fields.real("norm_epsilon" if "norm_epsilon" in fields.data else "layernorm_epsilon", 1e-5),
        activation=_activation(fields, gated),
        gated_mlp=gated,
        attention_bias=bias or fields.flag("add_qkv_bias", False),
        attention_output_bias=bias,
        mlp_bias=bias,
        tied_head=not fields.flag("untie_embeddings_and_output_weights", False),
    )
    fields.harmless(*fields.data)
    return config


def _is_rotary(fields: ConfigReader) -> bool:
    kind = fields.optional("position_embedding_type") or "learned_absolute"
    if kind not in ("learned_absolute", "rope"):
        fields.refuse("position_embedding_type", kind, "'learned_absolute' or 'rope'")
    rotary = kind == "rope" or fields.flag("use_rotary_position_embeddings", False)
    if not rotary:
        fields.inactive("add_position_embedding", True, None)
    return rotary


def _activation(fields: ConfigReader, gated: bool) -> Activation:
    if gated:
        return "silu"
    fused = fields.flag("bias_gelu_fusion", False)  # its kernel computes the tanh form
    return "gelu_tanh" if fields.flag("openai_gelu", False) or fused else "gelu"


def _per_head_triples(config: GPTConfig) -> Layout:
    """Version 1.0: [heads, head_size, 3], rows of queries, keys and values in turn."""

    def unpack(tensor: torch.Tensor, shapes: Sequence[Shape]) -> Sequence[torch.Tensor]:
        triples = tensor.reshape(config.num_heads, config.head_size, 3, *tensor.shape[1:])
        return OUT_IN.unpack(triples.movedim(2, 0).reshape(tensor.shape), shapes)

    return Layout(OUT_IN.stored_shape, unpack)


def family_of_version(version: float) -> Family:
    """Megatron's GPT as a checkpoint of this version keeps it."""

    def weight_rules(config: GPTConfig) -> list[WeightRule]:
        if version < 2 and config.num_kv_heads != config.num_heads:
            raise UnsupportedModelError(
                f"checkpoint_version {version:g} with num_query_groups {config.num_kv_heads} has an order of query, "
                "key and value that is not known; expected version 2.0 or 3.0"
            )
        by_head = _per_head_triples if version == 1 else query_key_value_by_head
        attention = OUT_IN if version == 0 else by_head(config)
        return _weight_rules(config, attention)

    return Family(
        model_type="megatron",
        architectures=(),
        read_config=read_config,
        weight_rules=weight_rules,
        head="output_layer.weight",
        embedding="embedding.word_embeddings.weight",
        ignorable=(r"rotary_pos_emb\.inv_freq", r"encoder\.rotary_pos_emb\.inv_freq"),
    )


def _weight_rules(config: GPTConfig, attention: Layout) -> list[WeightRule]:
    norm_kinds = ("weight", "bias") if config.norm_bias else ("weight",)

    def layer_rules(layer: int) -> list[WeightRule]:
        stored, block = f"encoder.layers.{layer}", f"blocks.{layer}"
        rules = [
            WeightRule(f"{stored}.{theirs}.{kind}", (f"{block}.{ours}.{kind}",))
            for theirs, ours in (("input_layernorm", "attention_norm"), ("post_attention_layernorm", "mlp_norm"))
            for kind in norm_kinds
        ]
        matrices = (
            ("self_attention.query_key_value", ("attention.query", "attention.key", "attention.value"),
             config.attention_bias, attention),
            ("self_attention.dense", ("attention.output",), config.attention_output_bias, OUT_IN),
            ("mlp.dense_h_to_4h", ("mlp.gate", "mlp.up") if config.gated_mlp else ("mlp.up",), config.mlp_bias, OUT_IN),
            ("mlp.dense_4h_to_h", ("mlp.down",), config.mlp_bias, OUT_IN),
        )  # fmt: skip
        for theirs, ours, has_bias, layout in matrices:
            rules += [
                WeightRule(f"{stored}.{theirs}.{kind}", tuple(f"{block}.{part}.{kind}" for part in ours), layout)
                for kind in (("weight", "bias") if has_bias else ("weight",))
            ]
        return rules

    learned = [WeightRule("embedding.position_embeddings.weight", ("position_embedding.weight",), AS_STORED)]
    return [
        WeightRule("embedding.word_embeddings.weight", ("token_embedding.weight",)),
        *(learned if config.position == "learned" else []),
        *per_layer(config, layer_rules),
        *(WeightRule(f"encoder.final_layernorm.{kind}", (f"final_norm.{kind}",)) for kind in norm_kinds),
        *([] if config.tied_head else [WeightRule("output_layer.weight", ("head.weight",), OUT_IN)]),
    ]


def read(content: Mapping[str, Any], origin: str) -> TrainingContent:
    """Names, version and arguments of one `model_optim_rng.pt`."""
    version = content.get("checkpoint_version", 0)
    if isinstance(version, bool) or not isinstance(version, (int, float)) or float(version) not in _VERSIONS:
        raise UnsupportedModelError(
            f"{origin}: checkpoint_version is {version!r}, whose order of query, key and value is not known; "
            f"expected {', '.join(f'{known:.1f}' for known in _VERSIONS)}"
        )
    model = content["model"]
    if "language_model" not in model:
        raise UnsupportedModelError(
            f"{origin}: model holds {', '.join(sorted(map(str, model))[:3])}, expected language_model: "
            "the layout of Megatron Core is not implemented; save with its legacy GPT, or convert to Hugging Face"
        )
    stored = _flatten({name: part for name, part in model.items() if name != "language_model"}, origin)
    stored |= _flatten(model["language_model"], origin)
    tensors = {_canonical_name(name): tensor for name, tensor in stored.items()}
    if len(tensors) != len(stored):
        raise CheckpointError(f"{origin} holds a tensor under two names: expected one version's names")
    fields = dict(vars(content["args"])) if isinstance(content.get("args"), argparse.Namespace) else dict(_RELEASED)
    embedding = tensors.get("embedding.word_embeddings.weight")
    if fields.get("padded_vocab_size") is None and embedding is not None:
        fields["padded_vocab_size"] = int(embedding.shape[0])
    return TrainingContent(family_of_version(float(version)), fields, tensors)


def _canonical_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _flatten(part: Any, origin: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """Dictionaries in dictionaries as one, names joined by dots."""
    found: dict[str, torch.Tensor] = {}
    for name, value in part.items():
        if isinstance(value, torch.Tensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            found |= _flatten(value, origin, f"{prefix}{name}.")
        elif value is not None:  # state that some layers keep beside their tensors, empty
            raise CheckpointError(f"{origin}: {prefix}{name} is {type(value).__name__}, expected tensors by name")
    return found


MEGATRON = TrainingLayout(
    kind="megatron",
    looks_like="model, args and checkpoint_version (Megatron-LM)",
    recognizes=lambda content: (
        isinstance(content.get("model"), Mapping)
        and ("language_model" in content["model"] or "checkpoint_version" in content)
    ),
    read=read,
)
