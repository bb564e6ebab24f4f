"""Reads everything that a `config.json` says of rotary positions, from wherever transformers 4 or 5 wrote it.

transformers 4 keeps `rope_theta` and `partial_rotary_factor` beside `rope_scaling`, transformers 5 all of it in
`rope_parameters`. The meaning of every entry is that of transformers 5.23, `modeling_rope_utils`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..runtime.errors import CheckpointError, UnsupportedModelError
from .config import RotaryScaling
from .config_fields import ConfigReader

_logger = logging.getLogger("onnxgpt")

_PLACES = ("rope_parameters", "rope_scaling")
_LAYER_TYPES = {"full_attention", "sliding_attention"}  # keys of a nested rope_parameters
_OTHER_NAMES = {"type": "rope_type"}  # entry of older releases → its name today
_OTHER_KINDS = {"su": "longrope"}


@dataclass(frozen=True, kw_only=True)
class RotaryChoice:
    """What a config says of rotary positions, as `GPTConfig` takes it."""

    theta: float
    scaling: RotaryScaling | None
    size: int | None  # leading elements of each head that rotate; None: all of them
    context_length: int  # positions for which this scaling holds


@dataclass(frozen=True)
class _Contexts:
    longest: int
    original: int  # of pretraining; the longest where nothing is said

    def ratio(self, entries: ConfigReader) -> float:
        """The factor, or what the two lengths say where none is given."""
        return entries.real("factor", self.longest / self.original)


def read_rotary(
    fields: ConfigReader,
    *,
    head_size: int,
    max_positions: int,
    theta_fields: Sequence[str] = ("rope_theta",),
    default_theta: float = 10000.0,
    share_fields: Sequence[str] = ("partial_rotary_factor",),
    default_share: float | None = None,
    default_original: int | None = None,
    layer_type: str | None = None,
    places: Sequence[str] = _PLACES,
) -> RotaryChoice:
    """Read the base, the scaling and the width of rotary positions.

    Args:
        fields: the config.
        head_size: elements of each head.
        max_positions: positions that the config allows, scaled.
        theta_fields: where the base may stand outside `places`.
        default_theta: the base where none is given.
        share_fields: where the share of each head that rotates may stand outside `places`.
        default_share: that share where none is given; None: the family has no such choice, all of the head rotates.
        default_original: positions of pretraining where no field outside `places` says; None: what these say, else all.
        layer_type: which part of a nested `rope_parameters` is meant.
        places: the objects that hold entries.

    Raises:
        UnsupportedModelError: a scaling or an entry that is not implemented, named.
        CheckpointError: places that disagree, or an entry that is missing or out of range.
    """
    entries = _entries(fields, theta_fields, share_fields, layer_type, places)
    theta = entries.real("rope_theta", default_theta)
    size = None
    if default_share is None:
        entries.inactive("partial_rotary_factor", 1, 1.0, None)
    else:
        size = int(head_size * entries.real("partial_rotary_factor", default_share))
    kind = _kind(entries)
    scaling, context_length = _READERS[kind](entries, _contexts(fields, entries, max_positions, default_original))
    entries.finish(common=False)
    turning = size or head_size
    if scaling is not None and scaling.factors and len(scaling.factors) != turning // 2:
        raise CheckpointError(
            f"{entries.origin}: short_factor has {len(scaling.factors)} numbers, expected {turning // 2}, one per pair"
        )
    if context_length < max_positions:
        _logger.warning(
            "%s: %s scaling changes all rotary positions past %d, also of what came before: the model is exported for "
            "its first %d positions, not for %d",
            fields.origin, kind, context_length, context_length, max_positions,
        )  # fmt: skip
    return RotaryChoice(
        theta=theta, scaling=scaling, size=None if size == head_size else size, context_length=context_length
    )


def _kind(entries: ConfigReader) -> str:
    kind = entries.optional("rope_type") or "default"
    kind = _OTHER_KINDS.get(str(kind), kind)
    if not isinstance(kind, str) or kind not in _READERS:
        raise UnsupportedModelError(
            f"{entries.origin} asks for {kind!r} scaling of rotary positions, which is not implemented; "
            f"implemented are {', '.join(sorted(_READERS))}"
        )
    return kind


def _contexts(fields: ConfigReader, entries: ConfigReader, max_positions: int, default: int | None) -> _Contexts:
    """The lengths after and before scaling; the latter stands among the entries, or outside of them (Phi-3)."""
    name = "original_max_position_embeddings"
    found = {reader.origin: reader.number(name) for reader in (fields, entries) if reader.optional(name) is not None}
    if default is not None:
        found.setdefault(fields.origin, default)
    if len(set(found.values())) > 1:
        raise CheckpointError(f"{name} is {found}; expected one value")
    return _Contexts(max_positions, next(iter(found.values()), max_positions))


def _entries(
    fields: ConfigReader,
    theta_fields: Sequence[str],
    share_fields: Sequence[str],
    layer_type: str | None,
    places: Sequence[str],
) -> ConfigReader:
    """All entries of all places under the names of today, once it is sure that no two places disagree."""
    found: dict[str, dict[str, Any]] = {}  # entry → where → value

    def add(name: str, where: str, value: Any) -> None:
        if value is not None:
            found.setdefault(_OTHER_NAMES.get(name, name), {})[where] = value

    for name in theta_fields:
        add("rope_theta", name, fields.optional(name))
    for name in share_fields:
        add("partial_rotary_factor", name, fields.optional(name))
    for place in places:
        inner = fields.optional(place)
        if isinstance(inner, Mapping) and layer_type is not None and place == "rope_parameters":
            if not set(inner) <= _LAYER_TYPES:
                raise CheckpointError(f"{fields.origin}: {place} has {sorted(inner)}, expected {sorted(_LAYER_TYPES)}")
            inner = inner.get(layer_type)
        if not isinstance(inner, Mapping | None):
            raise CheckpointError(f"{fields.origin}: {place} is {inner!r}, expected an object or null")
        for name, value in (inner or {}).items():
            add(name, f"{place}.{name}", value)
    for values in found.values():
        if any(value != next(iter(values.values())) for value in values.values()):
            raise CheckpointError(f"{fields.origin}: {values} disagree; expected one value")
    spoken = [place for place in places if fields.data.get(place)]
    origin = f"{fields.origin}: {' and '.join(spoken)}" if spoken else fields.origin
    return ConfigReader({name: next(iter(values.values())) for name, values in found.items()}, origin)


Scaled = tuple[RotaryScaling | None, int]  # the scaling, and how many positions it holds for


def _unscaled(entries: ConfigReader, contexts: _Contexts) -> Scaled:
    return None, contexts.longest


def _linear(entries: ConfigReader, contexts: _Contexts) -> Scaled:
    return RotaryScaling(kind="linear", factor=entries.real("factor")), contexts.longest


def _dynamic(entries: ConfigReader, contexts: _Contexts) -> Scaled:
    """Frequencies that grow with the longest text so far: they depend on the path taken, past the original context."""
    entries.real("factor")
    return None, min(contexts.original, contexts.longest)


def _llama3(entries: ConfigReader, contexts: _Contexts) -> Scaled:
    low, high = entries.real("low_freq_factor"), entries.real("high_freq_factor")
    if high <= low:
        raise CheckpointError(
            f"{entries.origin}: high_freq_factor is {high}, expected more than low_freq_factor ({low})"
        )
    scaling = RotaryScaling(
        kind="llama3",
        factor=entries.real("factor"),
        original_context=contexts.original,
        low_frequency_factor=low,
        high_frequency_factor=high,
    )
    return scaling, contexts.longest


def _yarn(entries: ConfigReader, contexts: _Contexts) -> Scaled:
    factor = contexts.ratio(entries)
    given, mscale, mscale_all = (entries.optional(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if given is not None:
        amplitude = entries.real("attention_factor")
    elif mscale and mscale_all:
        amplitude = _magnitude(factor, entries.real("mscale")) / _magnitude(factor, entries.real("mscale_all_dim"))
    else:
        amplitude = _magnitude(factor)
    scaling = RotaryScaling(
        kind="yarn",
        factor=factor,
        original_context=contexts.original,
        attention_factor=amplitude,
        beta_fast=entries.real("beta_fast", 32.0),
        beta_slow=entries.real("beta_slow", 1.0),
        truncated=entries.flag("truncate", True),
    )
    return scaling, contexts.longest


def _magnitude(factor: float, weight: float = 1.0) -> float:
    """YaRN (Peng et al. 2023, section 3.4): 0.1 ln(factor) + 1."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _longrope(entries: ConfigReader, contexts: _Contexts) -> Scaled:
    """LongRoPE's divisors for texts of at most the original context; longer ones turn by others from the start."""
    factor = contexts.ratio(entries)
    amplitude = math.sqrt(1 + math.log(factor) / math.log(contexts.original)) if factor > 1 else 1.0
    scaling = RotaryScaling(
        kind="longrope",
        factor=factor,
        original_context=contexts.original,
        attention_factor=entries.real("attention_factor", amplitude),
        factors=_divisors(entries, "short_factor"),
    )
    _divisors(entries, "long_factor")
    return scaling, min(contexts.original, contexts.longest)


def _divisors(entries: ConfigReader, name: str) -> tuple[float, ...]:
    values = entries.optional(name)
    numbers = isinstance(values, list) and all(type(value) in (int, float) and value > 0 for value in values)
    if not numbers:
        raise CheckpointError(f"{entries.origin}: {name} is {str(values)[:40]}, expected a list of positive numbers")
    return tuple(float(value) for value in values)


_READERS: Mapping[str, Callable[[ConfigReader, _Contexts], Scaled]] = {
    "default": _unscaled,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
