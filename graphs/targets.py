"""What a graph is made for: the types, operators and forms that each execution provider has kernels for.

Export and quantize read it, so it lies where both may look. The runtime reads what comes of it from the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from ..runtime.errors import OptionError

Dtype = Literal["float32", "float16", "bfloat16"]
Operators = Literal["fused", "standard"]
TargetName = Literal["cpu", "cuda", "dml"]

DTYPES: tuple[Dtype, ...] = ("float32", "float16", "bfloat16")
OPERATORS: tuple[Operators, ...] = ("fused", "standard")


@dataclass(frozen=True, kw_only=True)
class Target:
    """One execution provider, as far as the making of graphs is concerned."""

    name: TargetName
    dtypes: Mapping[Operators, tuple[Dtype, ...]]  # of weights, cache and activations; the default first
    packs_qkv: bool  # the fused attention takes query, key and value as one tensor
    plain_attention: bool = False  # the fused attention knows no rotary, window, soft cap or bias
    biased_attention: bool = True  # the fused attention takes a bias, as ALiBi needs
    scatters: bool = True  # ScatterElements has a kernel in the opset that is exported
    chunked_prefill: bool  # the fused attention takes several new tokens on top of a past
    chooses_tokens: bool  # the graph gives the best tokens out beside the logits
    recipes: tuple[str, ...]  # of quantize, what they make has kernels
    looks_up_blocks: bool = True  # embeddings may be in blocks; else they, and heads tied to them, stay as they are
    # Products by blocks want whole blocks: DirectML has no others, and CUDA's kernel for a few rows, which reads codes
    # as they are, takes no others of 8 bits: the matrix would be written out in half precision at every step.
    whole_blocks: bool = False
    spells_out_blocks: bool = False  # products by blocks want their zeros given and no bias inside
    # The object of this provider in genai_config.json's provider_options; None: onnxruntime-genai's own, the CPU.
    genai_provider: Mapping[str, Mapping[str, str]] | None = field(default=None)

    def wider_than(self, operators: Operators, dtype: Dtype) -> str:
        """What to export instead of a half type whose range a model leaves, as options of the command."""
        ways = [
            f"--dtype {wide}" for wide in ("bfloat16", "float32") if wide in self.dtypes[operators] and wide != dtype
        ]
        if "float32" not in self.dtypes[operators] and "float32" in self.dtypes["standard"]:
            ways.append("--dtype float32 --operators standard")
        return " or ".join(ways)

    def default_dtype(self, operators: Operators) -> Dtype:
        """The type that is exported when none is asked for."""
        return self.dtypes[operators][0]


@dataclass(frozen=True, kw_only=True)
class GraphForm:
    """What is asked of an export: options that go together."""

    target: Target
    operators: Operators
    dtype: Dtype
    wide_residual: bool = False  # in half precision: the residual stream is in float32


# CUDA's GroupQueryAttention has float16 and bfloat16 kernels alone, and none that takes a bias; the CPU's has float32
# and float16. CUDA's skip-norms add up in the type that they read unless they are told to be strict. DirectML's
# attention takes no packed input, passes over in silence what it does not know, and reads several tokens on a past as
# if they were a fresh prompt; see kernels/directml.json.
TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            Target(
                name="cpu",
                dtypes={"fused": ("float32", "float16"), "standard": ("float32", "float16")},
                packs_qkv=True,
                chunked_prefill=True,
                chooses_tokens=False,
                recipes=("int8", "int4", "auto", "int8-dynamic", "int8-static", "cache"),
            ),
            Target(
                name="cuda",
                dtypes={"fused": ("float16", "bfloat16"), "standard": ("float16", "bfloat16", "float32")},
                packs_qkv=True,
                biased_attention=False,
                chunked_prefill=True,
                chooses_tokens=True,
                recipes=("int8", "int4", "auto", "int8-static", "cache"),
                whole_blocks=True,
                genai_provider={"cuda": {"enable_cuda_graph": "0", "enable_skip_layer_norm_strict_mode": "1"}},
            ),
            Target(
                name="dml",
                dtypes={"fused": ("float16", "float32"), "standard": ("float16", "float32")},
                packs_qkv=False,
                plain_attention=True,
                scatters=False,
                chunked_prefill=False,
                chooses_tokens=False,
                recipes=("int8", "int4", "auto", "int8-static"),
                whole_blocks=True,
                looks_up_blocks=False,
                spells_out_blocks=True,
                genai_provider={"dml": {}},
            ),
        )
    }
)

CPU_FLOAT32 = GraphForm(target=TARGETS["cpu"], operators="fused", dtype="float32")


def target_named(name: str) -> Target:
    """A target by its name.

    Raises:
        OptionError: there is none of that name.
    """
    if name not in TARGETS:
        hint = "; onnxgpt web makes a browser's page of a bundle for cpu" if name == "web" else ""
        raise OptionError(f"target is {name!r}: expected {choices(tuple(TARGETS))}{hint}")
    return TARGETS[name]


def graph_form(target: str = "cpu", operators: str = "fused", dtype: str | None = None) -> GraphForm:
    """The options of an export, once they are known to go together.

    Raises:
        OptionError: one of them is unknown, or the target has no kernels for the type.
    """
    aim = target_named(target)
    chosen: Operators | None = next((known for known in OPERATORS if operators == known), None)
    if chosen is None:
        raise OptionError(f"operators is {operators!r}: expected {choices(OPERATORS)}")
    fitting = aim.dtypes[chosen]
    if dtype is None:
        return GraphForm(target=aim, operators=chosen, dtype=aim.default_dtype(chosen))
    wanted: Dtype | None = next((known for known in DTYPES if dtype == known), None)
    if wanted is None:
        raise OptionError(f"dtype is {dtype!r}: expected {choices(fitting)} for {aim.name} with {chosen} operators")
    if wanted not in fitting:
        raise OptionError(
            f"{aim.name} has no {wanted} kernels for {chosen} operators: {_ways_out(aim, chosen, wanted)}"
        )
    return GraphForm(target=aim, operators=chosen, dtype=wanted)


def _ways_out(target: Target, operators: Operators, dtype: Dtype) -> str:
    """What to ask for instead, with the smallest change first."""
    ways = [f"export --dtype {choices(target.dtypes[operators])}"]
    others = [name for name in OPERATORS if name != operators and dtype in target.dtypes[name]]
    ways += [f"--operators {name}" for name in others]
    elsewhere = [other.name for other in TARGETS.values() if dtype in other.dtypes[operators]]
    ways += [f"--target {choices(tuple(elsewhere))}"] if elsewhere and not others else []
    return ", or ".join(ways)


def choices(names: tuple[str, ...]) -> str:
    """The names in a sentence: a, b or c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
