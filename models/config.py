"""What a GPT is: one frozen dataclass, one field per architectural choice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

PositionKind = Literal["learned", "sinusoidal", "rotary"]
NormKind = Literal["layernorm", "rmsnorm"]
NormPlace = Literal["before", "after"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]


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
    norm_place: NormPlace = "before"  # of the attention and of the MLP; "after": on the sum with the residual
    norm_bias: bool = True  # LayerNorm only
    final_norm: bool = True
    gated_mlp: bool = False  # activation(gate(x)) * up(x)
    attention_bias: bool = True  # of query, key and value
    attention_output_bias: bool = True
    mlp_bias: bool = True
    head_bias: bool = False
    attention_scale: float | None = None  # None: 1 / sqrt(head_size)
    rotary_theta: float = 10000.0
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
        if self.position == "rotary" and (self.rotary_width % 2 or not 0 < self.rotary_width <= self.head_size):
            raise ValueError(
                f"rotary_size is {self.rotary_width}: expected an even number of at most head_size ({self.head_size})"
            )

    @property
    def rotary_width(self) -> int:
        """Elements of each head that rotate."""
        return self.head_size if self.rotary_size is None else self.rotary_size

    @property
    def scale(self) -> float:
        """What the products of queries and keys are multiplied by."""
        return self.head_size**-0.5 if self.attention_scale is None else self.attention_scale

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, for the bundle's manifest."""
        return asdict(self)
