"""How GGUF writes Llama and the many that follow it: the metadata that their conversions have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..family import GgufDialect

ROTARY_FREQUENCIES = ("rope_freqs.weight",)
LONG_ROTARY_FACTORS = ("rope_factors_long.weight", "rope_factors_short.weight")
RMS_EPSILON = {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
HEAD_SIZE = {"attention.key_length": "head_dim"}
WINDOW = {"attention.sliding_window": "sliding_window"}
_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "rope.freq_base": "rope_theta",
}
_INACTIVE = {"expert_count": (0,), "expert_used_count": (0,), "attention.causal": (True,), "pooling_type": (0,)}
Computed = Mapping[str, Callable[[Mapping[str, Any]], Any]]


def even_head_size(data: Mapping[str, Any]) -> int:
    """The hidden size shared out evenly, which is what a file means that does not say the size of heads."""
    return int(data["hidden_size"]) // int(data["num_attention_heads"])


def llama_like_dialect(
    architecture: str,
    model_class: str,
    own_fields: Mapping[str, str],
    *,
    constants: Mapping[str, Any],
    computed: Computed | None = None,
    inactive: Mapping[str, Sequence[Any]] | None = None,
) -> GgufDialect:
    """The dialect of an architecture with what all of them write, and `own_fields` beside it.

    Args:
        architecture: as the file names it.
        model_class: transformers' class of the causal language model.
        own_fields: metadata and fields of config.json beyond the sizes; `RMS_EPSILON` is some.
        constants: fields of config.json that GGUF leaves unsaid; `num_key_value_heads` is as many as heads if left out.
        computed: see `GgufDialect`.
        inactive: see `GgufDialect`.
    """
    head_size: dict[str, Any] = {"head_dim": even_head_size}
    says_it = "attention.key_length" in own_fields
    return GgufDialect(
        architecture=architecture,
        fields=_SIZES | dict(own_fields),
        constants={"architectures": [model_class]} | dict(constants),
        computed={"num_key_value_heads": lambda data: data["num_attention_heads"]}
        | (head_size if says_it else {})
        | dict(computed or {}),
        repeated={} if says_it else {"attention.key_length": even_head_size},
        inactive=_INACTIVE | dict(inactive or {}),
        rotary_scaling=True,
    )
