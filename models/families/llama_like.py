"""What Llama and the many that follow it have in common: fields of their configs, and names of their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...runtime.errors import CheckpointError
from ..config import Activation, GPTConfig, NormKind
from ..config_fields import ConfigReader
from ..family import Family
from ..rotary_fields import RotaryChoice, read_rotary
from ..weight_rules import AS_STORED, OUT_IN, Layout, WeightRule, canonical_shapes, per_layer

# Stored modules of a layer, and which of the GPT's own they hold.
Names = Mapping[str, Sequence[str]]
NAMES: Names = {
    "input_layernorm": ["attention_norm"],
    "self_attn.q_proj": ["attention.query"],
    "self_attn.k_proj": ["attention.key"],
    "self_attn.v_proj": ["attention.value"],
    "self_attn.o_proj": ["attention.output"],
    "post_attention_layernorm": ["mlp_norm"],
    "mlp.gate_proj": ["mlp.gate"],
    "mlp.up_proj": ["mlp.up"],
    "mlp.down_proj": ["mlp.down"],
}
HEAD_NORMS: Names = {"self_attn.q_norm": ["attention.query_norm"], "self_attn.k_norm": ["attention.key_norm"]}
_SLIDING, _FULL = "sliding_attention", "full_attention"


def read_llama_like(
    fields: ConfigReader,
    family: str,
    *,
    norm: NormKind = "rmsnorm",
    epsilon_field: str = "rms_norm_eps",
    default_epsilon: float = 1e-6,
    activation: Activation | None = None,
    tied_by_default: bool = False,
    head_size: int | None = None,
    rotary_share: float | None = None,
    rotary: RotaryChoice | None = None,
) -> GPTConfig:
    """Read what all of them write; what differs further is replaced in the result.

    Args:
        fields: the config.
        family: the name of the family.
        norm: the kind of all norms.
        epsilon_field: where their epsilon stands.
        default_epsilon: their epsilon where none is given.
        activation: of the MLP; None: what `hidden_act` says, else SiLU.
        tied_by_default: whether the head is the embedding where nothing is said.
        head_size: of each head; None: what `head_dim` says, else the hidden size shared out evenly.
        rotary_share: of each head that rotates where none is given; None: all of it, always.
        rotary: rotary positions, where the family writes them in a way of its own.
    """
    hidden_size, num_heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    head_size = head_size or fields.head_size(hidden_size, num_heads, "head_dim")
    max_positions = fields.number("max_position_embeddings")
    rotary = rotary or read_rotary(fields, head_size=head_size, max_positions=max_positions, default_share=rotary_share)
    return GPTConfig(
        family=family,
        vocab_size=fields.number("vocab_size"),
        context_length=rotary.context_length,
        hidden_size=hidden_size,
        num_layers=fields.number("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=fields.number("num_key_value_heads", num_heads),
        head_size=head_size,
        intermediate_size=fields.number("intermediate_size"),
        position="rotary",
        rotary_theta=rotary.theta,
        rotary_scaling=rotary.scaling,
        rotary_size=rotary.size,
        norm=norm,
        norm_epsilon=fields.real(epsilon_field, default_epsilon),
        norm_bias=norm == "layernorm",
        activation=activation or fields.activation("hidden_act", "silu"),
        gated_mlp=True,
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
        tied_head=fields.flag("tie_word_embeddings", tied_by_default),
    )


def require_kv_heads(fields: ConfigReader) -> None:
    """Refuse a config without `num_key_value_heads`, whose default differs between releases; null is every head."""
    if "num_key_value_heads" not in fields.data:
        raise CheckpointError(f"{fields.origin} has no num_key_value_heads: expected a whole number")


def window_of(fields: ConfigReader, default: int | None = None) -> int | None:
    """How many last positions, its own included, a position sees by `sliding_window`; None: all of them.

    `default` is what a config means that leaves the field out; null is None.
    """
    fields.harmless("sliding_window")
    return None if fields.data.get("sliding_window", default) is None else fields.number("sliding_window", default)


def windows_everywhere(window: int | None, config: GPTConfig) -> tuple[int, ...]:
    """The same window in every layer, unless the context is no longer than it."""
    return () if window is None or window >= config.context_length else (window,) * config.num_layers


def windows_by_layer(
    fields: ConfigReader, num_layers: int, window: int | None, slides: Callable[[int], bool]
) -> tuple[int, ...]:
    """A window for each layer that `layer_types` calls sliding; where it is left out, `slides` knows.

    Raises:
        CheckpointError: `layer_types` of another length or with other words, or a sliding layer without a window.
    """
    kinds = fields.optional("layer_types")
    if kinds is None:
        kinds = [_SLIDING if window is not None and slides(layer) else _FULL for layer in range(num_layers)]
    if not isinstance(kinds, list) or len(kinds) != num_layers or any(kind not in (_SLIDING, _FULL) for kind in kinds):
        raise CheckpointError(
            f"{fields.origin}: layer_types is {str(kinds)[:60]}, expected {_SLIDING} or {_FULL} for each of "
            f"num_hidden_layers ({num_layers})"
        )
    if _SLIDING not in kinds:
        return ()
    if window is None:
        raise CheckpointError(
            f"{fields.origin}: layer_types has {_SLIDING}, expected a sliding_window too (and use_sliding_window)"
        )
    return tuple(window if kind == _SLIDING else 0 for kind in kinds)


def llama_like_rules(
    config: GPTConfig, names: Names = NAMES, *, norms: Layout = AS_STORED, final_norm: str = "norm"
) -> list[WeightRule]:
    """Rules for what the config has of `names`; Linear layers keep matrices [out, in]."""
    shapes = canonical_shapes(config)

    def module(stored: str, *targets: str) -> list[WeightRule]:
        rules = []
        for kind in ("weight", "bias"):
            shape = shapes.get(f"{targets[0]}.{kind}")
            if shape is not None:
                layout = OUT_IN if len(shape) == 2 else norms if targets[0].endswith("norm") else AS_STORED
                rules.append(WeightRule(f"{stored}.{kind}", tuple(f"{target}.{kind}" for target in targets), layout))
        return rules

    def layer_rules(layer: int) -> list[WeightRule]:
        return [
            rule
            for stored, targets in names.items()
            for rule in module(f"model.layers.{layer}.{stored}", *(f"blocks.{layer}.{part}" for part in targets))
        ]

    return [
        WeightRule("model.embed_tokens.weight", ("token_embedding.weight",)),
        *per_layer(config, layer_rules),
        *module(f"model.{final_norm}", "final_norm"),
        *module("lm_head", "head"),
    ]


def llama_like_family(
    model_type: str,
    name: str,
    *,
    known_as: str,
    read_config: Callable[[ConfigReader], GPTConfig],
    weight_rules: Callable[[GPTConfig], Sequence[WeightRule]] = llama_like_rules,
    limits: str = "",
) -> Family:
    """The family whose classes in transformers begin with `name`."""
    return Family(
        model_type=model_type,
        known_as=known_as,
        limits=limits,
        architectures=(f"{name}ForCausalLM", f"{name}Model"),
        read_config=read_config,
        weight_rules=weight_rules,
        prefix="model.",
        embedding="model.embed_tokens.weight",
        ignorable=(r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
    )
