"""What a GPT is: one frozen dataclass, one field per architectural choice."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

PositionKind = Literal["learned", "sinusoidal", "rotary", "alibi"]
NormKind = Literal["layernorm", "rmsnorm"]
NormPlace = Literal["before", "after", "both"]
Residual = Literal["sequential", "parallel", "parallel_shared_norm"]
QueryKeyNorm = Literal["shared", "per_head"]
ScalingKind = Literal["linear", "llama3", "yarn", "longrope"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]


@dataclass(frozen=True, kw_only=True)
class RotaryScaling:
    """How rotary frequencies are changed for a context longer than the one of pretraining; `models.rotary` does it."""

    kind: ScalingKind
    factor: float  # how much longer the context became
    original_context: int | None = None  # positions of pretraining; all but linear need it
    attention_factor: float = 1.0  # that cosines and sines are multiplied by
    low_frequency_factor: float = 1.0  # llama3: wavelengths over original_context / this are scaled in full
    high_frequency_factor: float = 4.0  # llama3: … and under original_context / this not at all
    beta_fast: float = 32.0  # yarn: turns within the original context, over which a frequency stays
    beta_slow: float = 1.0  # yarn: … and under which it is scaled in full
    truncated: bool = True  # yarn: the borders of that ramp are whole numbers
    factors: tuple[float, ...] = ()  # longrope: one divisor per frequency


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Every architectural choice of a GPT. Sizes are in elements; nothing here depends on a file format.

    Raises:
        ValueError: a combination that describes no GPT, named field by field.
    """

    family: str
    vocab_size: int
    context_length: int  # the most positions a sequence may have
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int  # fewer than num_heads: grouped-query attention
    head_size: int
    intermediate_size: int  # width of the MLP's hidden layer (of each half when gated)
    position: PositionKind
    norm: NormKind
    activation: Activation
    tied_head: bool  # the head's matrix is the token embedding's
    norm_epsilon: float = 1e-5
    # Of the attention and of the MLP; "after": on the sum with the residual; "both": before, and on the result alone.
    norm_place: NormPlace = "before"
    residual: Residual = "sequential"  # parallel: the MLP reads what the attention reads, and both are added
    residual_from_norm: bool = False  # the residual is the norm's output, not its input
    norm_bias: bool = True  # LayerNorm only
    final_norm: bool = True
    gated_mlp: bool = False  # activation(gate(x)) * up(x)
    attention_bias: bool = True  # of query, key and value
    attention_output_bias: bool = True
    mlp_bias: bool = True
    head_bias: bool = False
    attention_scale: float | None = None  # None: 1 / sqrt(head_size)
    attention_scale_by_layer: bool = False  # divided by the layer's number, from 1 on
    attention_softcap: float | None = None  # cap * tanh(score / cap)
    logit_softcap: float | None = None  # the same of the logits
    windows: tuple[int, ...] = ()  # per layer, how many last positions attention sees, 0: all; empty: all everywhere
    query_key_norm: QueryKeyNorm | None = None  # over each head, before positions; weights for all heads or for each
    query_key_norm_bias: bool = False
    embedding_scale: float = 1.0  # that token embeddings are multiplied by
    embedding_norm: bool = False  # on the sum of the embeddings
    embedding_size: int | None = None  # width of the token embedding, projected to and from hidden_size; None: the same
    rotary_theta: float = 10000.0
    rotary_scaling: RotaryScaling | None = None
    local_rotary_theta: float | None = None  # of layers with a window; None: they turn as the others do
    rotary_size: int | None = None  # leading elements of each head that rotate; None: all of them
    rotary_interleaved: bool = False  # pairs (0, 1), (2, 3), … instead of (0, n/2), (1, n/2 + 1), …

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "hidden_size", "num_layers", "num_heads", "num_kv_heads",
                     "head_size", "intermediate_size"):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}: expected a positive whole number")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads is {self.num_heads} and num_kv_heads {self.num_kv_heads}: "
                "expected a multiple, so that every key/value head serves equally many heads"
            )
        if self.windows and (len(self.windows) != self.num_layers or min(self.windows) < 0):
            raise ValueError(f"windows are {list(self.windows)}: expected {self.num_layers} numbers of at least 0")
        if self.residual != "sequential" and (self.norm_place != "before" or self.residual_from_norm):
            raise ValueError(f"residual is {self.residual}: expected norms before, and the residual from their input")
        if self.position == "rotary" and (self.rotary_width % 2 or not 0 < self.rotary_width <= self.head_size):
            raise ValueError(
                f"rotary_size is {self.rotary_width}: expected an even number of at most head_size ({self.head_size})"
            )

    @property
    def rotary_width(self) -> int:
        """Elements of each head that rotate."""
        return self.head_size if self.rotary_size is None else self.rotary_size

    def scale(self, layer: int) -> float:
        """What the products of queries and keys are multiplied by."""
        scale = self.head_size**-0.5 if self.attention_scale is None else self.attention_scale
        return scale / (layer + 1) if self.attention_scale_by_layer else scale

    def window(self, layer: int) -> int:
        """How many last positions, its own included, a position sees; 0: all."""
        return self.windows[layer] if self.windows else 0

    def rotates_locally(self, layer: int) -> bool:
        """Whether the layer's rotary positions are those of `local_rotary_theta`."""
        return self.local_rotary_theta is not None and self.window(layer) > 0

    @property
    def embedding_width(self) -> int:
        """Columns of the token embedding."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def mlp_norm(self) -> bool:
        """Whether the MLP has a norm of its own."""
        return self.residual != "parallel_shared_norm"

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, for the bundle's manifest."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples become lists, as they are read again
        return plain
