"""GraphSpec: what a graph's own inputs and outputs say of how it is fed, whoever exported it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cache import CacheLayout
from .errors import BundleError

_FLOAT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_BFLOAT16 = "tensor(bfloat16)"
_CACHE_TYPES = {
    **_FLOAT_TYPES,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    _BFLOAT16: np.uint16,  # moved about as what numpy has of its size
}  # whole numbers of 8 bits: scales in the graph
# past_key_values.0.key (ours, optimum, transformers.js, onnxruntime-genai), past_key_values.0.decoder.key, past_key_0
_CACHE_NAMES = (
    re.compile(r"(?P<side>past|present)\w*\.(?P<layer>\d+)\.(?:decoder\.|self\.)?(?P<kind>key|value)"),
    re.compile(r"(?P<side>past|present)_(?P<kind>key|value)(?:_self)?_(?P<layer>\d+)"),
)
_IDS, _MASK, _POSITIONS, _BRANCH = "input_ids", "attention_mask", "position_ids", "use_cache_branch"
_KEEP_NAMES = ("num_logits_to_keep", "logits_to_keep")
# Outputs of a graph that looks for the likeliest tokens itself; see `Choices`.
GREEDY_IDS, TOP_IDS, TOP_LOGITS, LOG_NORMALIZER = "greedy_ids", "top_ids", "top_logits", "log_normalizer"
CHOICES = (GREEDY_IDS, TOP_IDS, TOP_LOGITS, LOG_NORMALIZER)
_MADE_AGAIN = "export it again (optimum: --task text-generation-with-past)"


@dataclass(frozen=True)
class GraphSpec:
    """What a graph's own inputs and outputs say."""

    layout: CacheLayout
    past_names: tuple[str, ...]  # key and value by turns, layer by layer
    present_names: tuple[str, ...]
    vocab_size: int
    has_logits_to_keep: bool
    logits_dtype: np.dtype[Any]  # the cache's own may be smaller
    has_position_ids: bool = False  # the graph doesn't work positions out itself
    has_cache_branch: bool = False  # two graphs in one: with use_cache_branch false it reads no past
    keep_name: str = "num_logits_to_keep"
    keep_shape: tuple[int, ...] = (1,)  # or a scalar's, ()
    choices: int = 0  # how many of the likeliest tokens the graph gives out beside the logits; 0: it gives none


def read_spec(session: Any, architecture: Mapping[str, Any] | None = None) -> GraphSpec:
    """Read the cache's shapes, names and types from a loaded graph.

    Args:
        session: ONNX Runtime's.
        architecture: `num_kv_heads`, `head_size` and `vocab_size` as config files tell them, for sizes that the graph
            leaves open.

    Raises:
        BundleError: it is no GPT with past key values, or wants what nobody here gives; named.
    """
    inputs = {item.name: item for item in session.get_inputs()}
    overridable = {item.name: item for item in session.get_overridable_initializers()}
    outputs = {item.name: item for item in session.get_outputs()}
    pasts, presents = _cache_names(inputs, "past"), _cache_names(outputs, "present")
    _refuse_others(inputs, outputs, pasts, presents)
    known = architecture or {}
    keys = [inputs[name] for (_, kind), name in pasts.items() if kind == "key"]
    logits = outputs["logits"]
    if logits.type not in _FLOAT_TYPES:
        raise BundleError(f"the graph's logits are {logits.type}: expected one of {', '.join(_FLOAT_TYPES)}")
    keep = next((name for name in _KEEP_NAMES if name in inputs or name in overridable), None)
    keep_input = None if keep is None else inputs.get(keep) or overridable[keep]
    return GraphSpec(
        layout=CacheLayout(
            tuple(_sizes(key, known) for key in keys),
            _cache_dtype(inputs, pasts),
            is_bfloat16=keys[0].type == _BFLOAT16,
        ),
        past_names=tuple(pasts.values()),
        present_names=tuple(presents[place] for place in pasts),
        vocab_size=_size(logits, 2, known, "vocab_size"),
        has_logits_to_keep=keep is not None,
        logits_dtype=np.dtype(_FLOAT_TYPES[logits.type]),
        has_position_ids=_POSITIONS in inputs,
        has_cache_branch=_BRANCH in inputs,
        keep_name=keep or _KEEP_NAMES[0],
        keep_shape=(1,) if keep_input is None or len(keep_input.shape) else (),
        choices=outputs[TOP_IDS].shape[1] if all(name in outputs for name in CHOICES) else 0,
    )


def _cache_names(values: Mapping[str, Any], side: str) -> dict[tuple[int, str], str]:
    """The names of keys and values by (layer, kind), in that order."""
    found = {}
    for name in values:
        for pattern in _CACHE_NAMES:
            if (match := pattern.fullmatch(name)) and match["side"] == side:
                found[int(match["layer"]), match["kind"]] = name
    return dict(sorted(found.items()))


def _refuse_others(
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    pasts: Mapping[tuple[int, str], str],
    presents: Mapping[tuple[int, str], str],
) -> None:
    """Refuse what is no decoder of the known kind, by what it has and lacks."""
    encoder = [name for name in inputs if "encoder" in name.replace("decoder", "")]
    if encoder:
        raise BundleError(
            f"the graph takes {encoder[0]}: it is the decoder of an encoder-decoder model, and only GPTs run here"
        )
    missing = [name for name in (_IDS, _MASK) if name not in inputs]
    missing += ["logits"] if "logits" not in outputs else []
    if missing:
        raise BundleError(
            f"the graph has no {', '.join(missing)}: expected a GPT with past key values; export the model again"
        )
    others = [name for name in inputs if name not in (_IDS, _MASK, _POSITIONS, _BRANCH, *_KEEP_NAMES, *pasts.values())]
    joint = [name for name in others if name.startswith("past")]
    if joint:
        shape = f"{joint[0]} {list(inputs[joint[0]].shape)}"
        raise BundleError(
            f"the graph has a cache of unknown layout, {shape}: expected past_key_values.N.key and .value, "
            f"each [batch, heads, past, head size]; {_MADE_AGAIN}"
        )
    if not pasts:
        raise BundleError(
            f"the graph has no past_key_values inputs: expected a GPT with past key values; {_MADE_AGAIN}"
        )
    absent = [place for place in pasts if place not in presents]
    if absent:
        layer, kind = absent[0]
        raise BundleError(
            f"the graph has no present.{layer}.{kind} beside {pasts[layer, kind]}: expected a GPT with past key "
            "values; export the model again"
        )
    layers = {layer for layer, _ in pasts}
    halves = [f"{kind} of layer {layer}" for layer in layers for kind in ("key", "value") if (layer, kind) not in pasts]
    if halves:
        raise BundleError(f"the graph's cache lacks the {halves[0]}: expected keys and values; export the model again")
    if others:
        raise BundleError(
            f"the graph wants {', '.join(others)} too, which nobody here can give: expected a text-only GPT"
        )
    whole = [name for name in (_IDS, _MASK, _POSITIONS) if name in inputs and inputs[name].type != "tensor(int64)"]
    if whole:
        raise BundleError(f"the graph's {whole[0]} is {inputs[whole[0]].type}: expected tensor(int64)")
    one = [name for name in (_IDS,) if isinstance(inputs[name].shape[1], int)]
    if one:
        raise BundleError(
            f"the graph reads {inputs[_IDS].shape[1]} token at a time: expected any number; merge it with the graph "
            "that reads prompts (optimum's merge_decoders), or export it again as one graph"
        )


def _cache_dtype(inputs: Mapping[str, Any], pasts: Mapping[tuple[int, str], str]) -> np.dtype[Any]:
    types: Sequence[str] = sorted({inputs[name].type for name in pasts.values()})
    if types[0] not in _CACHE_TYPES:
        raise BundleError(f"the graph's cache is {types[0]}: expected one of {', '.join(_CACHE_TYPES)}")
    if len(types) > 1:
        raise BundleError(f"the graph's caches are {' and '.join(types)}: expected one type; export the model again")
    for (layer, _), name in pasts.items():
        shape, key = inputs[name].shape, inputs[pasts[layer, "key"]].shape
        if len(shape) != 4 or len(key) != 4 or (shape[1], shape[3]) != (key[1], key[3]):
            raise BundleError(
                f"the graph's cache {name} is {list(shape)}: expected [batch, heads, past, head size], "
                f"the same for keys and values; {_MADE_AGAIN}"
            )
    return np.dtype(_CACHE_TYPES[types[0]])


def _sizes(key: Any, known: Mapping[str, Any]) -> tuple[int, int]:
    return _size(key, 1, known, "num_kv_heads"), _size(key, 3, known, "head_size")


def _size(value: Any, axis: int, known: Mapping[str, Any], name: str) -> int:
    """A size of an input or output that the graph fixes, else the one that config files tell."""
    size = value.shape[axis]
    if not isinstance(size, int):
        size = known.get(name)
    if not isinstance(size, int) or size < 1:
        raise BundleError(
            f"neither the graph's {value.name} {list(value.shape)} nor a config file tells {name}: "
            "put the model's config.json beside the graph"
        )
    return size
