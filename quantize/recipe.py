"""QuantRecipe: what to do to which matrices, as named, frozen values."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..runtime.errors import OptionError
from .blocks import BlockFormat

Method = Literal["gptq", "nearest"]
ROLES = ("qkv", "attention_output", "gate_up", "up", "down", "head")  # a tied embedding goes with the head


@dataclass(frozen=True, kw_only=True)
class QuantRecipe:
    """How a bundle's matrices are put into blocks.

    Raises:
        OptionError: a value that no kernel serves.
    """

    name: str
    description: str
    layers: BlockFormat  # of the matrices inside of the blocks
    down: BlockFormat  # of the MLP's last matrix, whose inputs have the widest range
    head: BlockFormat  # of the head, and of the embedding when the two are one
    method: Method = "gptq"
    smooth: bool = True  # move the activations' outliers into the weights
    max_kl: float  # the most mean KL divergence from full precision, in nats

    def __post_init__(self) -> None:
        if self.method not in ("gptq", "nearest"):
            raise OptionError(f"method is {self.method!r}: expected gptq or nearest")
        if not self.max_kl > 0:
            raise OptionError(f"max_kl is {self.max_kl}: expected a number above 0")

    def format_of(self, role: str) -> BlockFormat:
        """The blocks of a matrix by its role in the manifest."""
        if role in ("head", "token_embedding"):
            return self.head
        return self.down if role == "down" else self.layers

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, for the manifest."""
        return asdict(self)


_INT8 = BlockFormat(8, 128)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        QuantRecipe(
            name="int8",
            description="8-bit weights, 8-bit arithmetic: a quarter of the size with hardly a loss.",
            layers=_INT8,
            down=_INT8,
            head=_INT8,
            max_kl=0.01,
        ),
        QuantRecipe(
            name="int4",
            description="4-bit weights in the blocks, 8-bit head: the smallest and fastest.",
            layers=BlockFormat(4, 32),
            down=BlockFormat(4, 32),
            head=_INT8,
            max_kl=0.10,
        ),
    )
}


def recipe_named(name: str, **changes: Any) -> QuantRecipe:
    """A recipe by its name, with fields changed.

    Raises:
        OptionError: an unknown name or field, or a value out of range.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(RECIPES)}"
        raise OptionError(f"unknown recipe {name!r}: {hint}")
    try:
        return replace(RECIPES[name], **changes)
    except TypeError as error:
        raise OptionError(f"unknown field of a recipe ({error})") from error
