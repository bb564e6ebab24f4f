"""QuantRecipe: what to do to which matrices, as named, frozen values."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from ..runtime.errors import OptionError
from .blocks import BlockedMatrix, BlockFormat, Weights, quantize_nearest
from .columns import ColumnFormat, ColumnMatrix
from .gptq import quantize_compensated

if TYPE_CHECKING:
    from .calibration import InputStatistics
    from .smoothing import Rounding

Record = Mapping[str, Any]  # of one matrix, from the bundle's manifest
Matrix = TypeVar("Matrix")  # what a recipe makes of a matrix
Kind = Literal["blocks", "dynamic", "static", "none"]
Method = Literal["gptq", "nearest"]
_INT8 = BlockFormat(8, 128)
_INT4 = BlockFormat(4, 32, symmetric=False)


@dataclass(frozen=True, kw_only=True)
class QuantRecipe(ABC, Generic[Matrix]):
    """What the pipeline asks of a recipe, whatever it makes of matrices.

    Raises:
        OptionError: a value that makes no sense.
    """

    name: str
    description: str
    kind: ClassVar[Kind]  # how the graph is rewritten
    operators: ClassVar[str]  # the operator set of the bundles that it takes
    samples_per_window: ClassVar[int] = 32  # rows of calibration that roundings are compared on
    smooth: bool = True  # move the activations' outliers into the weights
    max_kl: float  # the most mean KL divergence from full precision, in nats
    kv_cache: Literal["int8"] | None = None  # None: keys and values are cached in full precision

    def __post_init__(self) -> None:
        if self.kv_cache not in ("int8", None):
            raise OptionError(f"kv_cache is {self.kv_cache!r}: expected int8, or leave it out for full precision")
        if not self.max_kl > 0:
            raise OptionError(f"max_kl is {self.max_kl}: expected a number above 0")

    @abstractmethod
    def format_of(self, record: Record) -> Rounding:
        """How a matrix, and its input, are rounded, by its record in the manifest."""

    @abstractmethod
    def quantize(self, weights: Weights, record: Record, statistics: InputStatistics | None) -> Matrix:
        """A matrix [in, out] as the graph will hold it.

        Args:
            statistics: of the matrix's input; None for an embedding, which has none.
        """

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, for the manifest."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class BlockRecipe(QuantRecipe[BlockedMatrix]):
    """How a bundle's matrices are put into blocks.

    Raises:
        OptionError: a value that no kernel serves.
    """

    kind = "blocks"
    operators = "fused"
    layers: BlockFormat  # of the matrices inside of the blocks
    down: BlockFormat  # of the MLP's last matrix, whose inputs have the widest range
    head: BlockFormat  # of the head, and of the embedding; symmetric, since the look-up has no zeros
    method: Method = "gptq"
    raise_share: float = 0.0  # of the layers' weights: those that bear rounding the least, found by measuring
    raised: BlockFormat = _INT8  # what these are raised to
    raised_matrices: tuple[str, ...] = ()  # their names, once they are found
    reaches_limit: bool = False  # raise as many as max_kl takes, and no more
    whole_blocks: bool = False  # no block is padded: sizes are lowered until they divide a matrix's rows

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in ("gptq", "nearest"):
            raise OptionError(f"method is {self.method!r}: expected gptq or nearest")
        if not 0 <= self.raise_share <= 1:
            raise OptionError(f"raise_share is {self.raise_share}: expected a fraction, from 0 to 1")
        if not self.head.symmetric:
            raise OptionError("head is not symmetric: expected symmetric blocks, which the embedding's look-up reads")

    def format_of(self, record: Record) -> BlockFormat:
        """The blocks of a matrix by its record in the manifest."""
        form = self.down if record["role"] == "down" else self.layers
        if record["initializer"] in self.raised_matrices:
            form = self.raised
        elif record["role"] in ("head", "token_embedding"):
            form = self.head
        return form.dividing(record["shape"][0]) if self.whole_blocks else form

    def quantize(self, weights: Weights, record: Record, statistics: InputStatistics | None) -> BlockedMatrix:
        """Blocks whose errors are made good where calibration tells how."""
        form = self.format_of(record)
        if self.method == "gptq" and statistics is not None:
            return quantize_compensated(weights, statistics.second_moments, form)
        return quantize_nearest(weights, form)


@dataclass(frozen=True, kw_only=True)
class PlainRecipe(QuantRecipe[ColumnMatrix]):
    """8-bit weights by output channel and 8-bit inputs, in the ONNX domain's own operators."""

    operators = "standard"
    by_row: tuple[str, ...] = ()  # roles of the matrices whose input is scaled row by row before it is rounded

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kv_cache is not None:
            raise OptionError(
                f"{self.name} has no 8-bit cache, which only ONNX Runtime's own attention reads: leave out kv_cache, "
                "or choose int8, int4, auto or cache"
            )

    def format_of(self, record: Record) -> ColumnFormat:
        """How a matrix, and its input, are rounded, by its record in the manifest."""
        return ColumnFormat(by_row=record["role"] in self.by_row)

    def quantize(self, weights: Weights, record: Record, statistics: InputStatistics | None) -> ColumnMatrix:
        """Codes by column, and the input's range where the recipe is static."""
        return self.format_of(record).quantize(weights, statistics, fixed_range=self.kind == "static")


@dataclass(frozen=True, kw_only=True)
class DynamicRecipe(PlainRecipe):
    """Inputs are rounded by the range that they have."""

    kind = "dynamic"


@dataclass(frozen=True, kw_only=True)
class StaticRecipe(PlainRecipe):
    """Inputs are rounded by a range that calibration found."""

    kind = "static"
    # A range must have seen the outliers: on the embedded model, 32 samples cost 0.0064 nats, 128 cost 0.0028.
    samples_per_window = 128


class Exact:
    """What does not round; see `smoothing.Rounding`."""

    def round_weights(self, weights: Weights) -> Weights:
        """The weights as they are."""
        return weights

    def round_inputs(self, values: Weights) -> Weights:
        """The input as it is."""
        return values


@dataclass(frozen=True, kw_only=True)
class WeightsKept(QuantRecipe[Weights]):
    """Weights stay in full precision; the cache alone changes.

    Raises:
        OptionError: the cache does not change either.
    """

    kind = "none"
    operators = "fused"
    smooth: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kv_cache is None:
            raise OptionError(f"{self.name} without an 8-bit cache changes nothing: give kv_cache int8")
        if self.smooth:
            raise OptionError(f"smooth has no effect on {self.name}, which rounds no weights: leave it out")

    def format_of(self, record: Record) -> Exact:
        """No rounding."""
        return Exact()

    def quantize(self, weights: Weights, record: Record, statistics: InputStatistics | None) -> Weights:
        """The matrix as it is."""
        return weights


_EVERY_PRODUCT = ("qkv", "attention_output", "gate_up", "up", "down", "head")

RECIPES: dict[str, QuantRecipe[Any]] = {
    recipe.name: recipe
    for recipe in (
        BlockRecipe(
            name="int8",
            description="8-bit weights, 8-bit arithmetic: a quarter of the size with hardly a loss.",
            layers=_INT8,
            down=_INT8,
            head=BlockFormat(8, 64),
            max_kl=0.01,
        ),
        BlockRecipe(
            name="int4",
            description="4-bit weights, 8-bit head and where 4 bits hurt most: the smallest and fastest.",
            layers=_INT4,
            down=_INT4,
            head=BlockFormat(8, 64),
            raise_share=0.08,
            max_kl=0.10,
        ),
        BlockRecipe(
            name="auto",
            description="As many 4-bit weights as a limit of the loss allows (--max-kl), 8 bits where it needs them.",
            layers=_INT4,
            down=_INT4,
            head=BlockFormat(8, 64),
            reaches_limit=True,
            max_kl=0.02,
        ),
        DynamicRecipe(
            name="int8-dynamic",
            description="8-bit products of the ONNX domain alone, inputs rounded as they come: for any ONNX backend.",
            by_row=_EVERY_PRODUCT,  # SmolLM2: 0.011 nats; with down alone 0.016, and a step faster by 3 to 10 %
            max_kl=0.10,
        ),
        StaticRecipe(
            name="int8-static",
            description="8-bit products between QuantizeLinear and DequantizeLinear, ranges from a text: accelerators.",
            # The inputs of SmolLM2's 12th down reach 2,900 at the first token and 1.5 at most others. The model's loss
            # is 0.18 nats (32 samples) when they share a range, 0.016 when rows have their own.
            by_row=("down",),
            max_kl=0.10,
        ),
        WeightsKept(
            name="cache",
            description="The key/value cache in 8 bits, weights as they are: long contexts in a quarter of the memory.",
            kv_cache="int8",
            max_kl=0.002,
        ),
    )
}


def recipe_named(name: str, **changes: Any) -> QuantRecipe[Any]:
    """A recipe by its name, with fields changed.

    Raises:
        OptionError: an unknown name or field, or a value out of range.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(RECIPES)}"
        raise OptionError(f"unknown recipe {name!r}: {hint}")
    recipe = RECIPES[name]
    known = [item.name for item in fields(recipe) if item.name not in ("name", "description")]
    for field_name in changes:
        if field_name not in known:
            raise OptionError(f"the recipe {name} has no field {field_name!r}: expected one of {', '.join(known)}")
    return replace(recipe, **changes)
