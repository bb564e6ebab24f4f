"""The `config.json` that the model of a GGUF file would have in a Hugging Face directory.

Only keys under the architecture's name describe the network; each is used, known to do nothing, or refused by name.
What they mean is what llama.cpp does with them (`load_hparams` of its models).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..runtime.errors import CheckpointError, UnsupportedModelError
from .config import GPTConfig
from .family import GgufDialect
from .weight_rules import Shape, TensorSource

# Tensors that hold one divisor for each rotary frequency.
ROTARY_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_FREQS, _LONG, _SHORT = ROTARY_TENSORS
_WINDOW = "attention.sliding_window"  # 0: none
Data = dict[str, Any]


def config_json(
    model_type: str, dialect: GgufDialect, metadata: Mapping[str, Any], file: TensorSource, origin: str
) -> Data:
    """Fields of `config.json` from the metadata and, where it says nothing, from which tensors there are.

    Raises:
        CheckpointError: no embedding, or metadata that contradicts the tensors or itself.
        UnsupportedModelError: a key, a value or a tensor that is not implemented, named.
    """
    shapes = file.shapes()
    if "token_embd.weight" not in shapes:
        raise CheckpointError(f"{origin} lacks token_embd.weight: expected the weights of a whole model")
    own = {
        name.removeprefix(f"{dialect.architecture}."): _plain(value)
        for name, value in metadata.items()
        if name.startswith(f"{dialect.architecture}.")
    }
    data = {"model_type": model_type, "vocab_size": _vocab_size(dialect, own, shapes, origin)} | dict(dialect.constants)
    if own.pop("attention.value_length", own.get("attention.key_length")) != own.get("attention.key_length"):
        raise UnsupportedModelError(f"{origin}: values of another size than keys are not implemented")
    for name, field in dialect.fields.items():
        if name in own:
            value = own.pop(name)
            data[field] = None if name == _WINDOW and value == 0 else value
    fused = {name.replace(".attn_qkv.", ".attn_q.") for name in shapes}
    data |= {field: tensor in shapes or tensor in fused for tensor, field in dialect.flags.items()}
    data |= {field: tensor not in shapes for tensor, field in dialect.absent_flags.items()}
    for field, compute in dialect.computed.items():
        if field not in data:
            data[field] = _value(compute, data)
    data |= _rotary(dialect, own, data, file, origin)
    for name, value in own.items():
        allowed = [*dialect.inactive.get(name, ())]
        if name in dialect.repeated:
            allowed.append(_value(dialect.repeated[name], data))
        if value not in allowed:
            shown = f"{dialect.architecture}.{name} = {value!r}"[:100]
            raise UnsupportedModelError(f"{origin}: {shown} is not implemented for this architecture")
    return data | {"tie_word_embeddings": "output.weight" not in shapes, "torch_dtype": "float32"}


def check_rotary_width(dialect: GgufDialect, metadata: Mapping[str, Any], config: GPTConfig, origin: str) -> None:
    """Refuse a file of which other elements of each head rotate than `config` says."""
    width = metadata.get(f"{dialect.architecture}.rope.dimension_count")
    if width is not None and config.position == "rotary" and width != config.rotary_width:
        raise UnsupportedModelError(
            f"{origin}: {width} elements of each head rotate, expected {config.rotary_width}, the whole head"
        )


def _vocab_size(dialect: GgufDialect, own: Data, shapes: Mapping[str, Shape], origin: str) -> int:
    rows = shapes["token_embd.weight"][0]
    if own.pop("vocab_size", rows) != rows:
        raise CheckpointError(f"{origin}: token_embd.weight has {rows} rows, {dialect.architecture}.vocab_size differs")
    return rows


def _value(function: Callable[[Mapping[str, Any]], Any], data: Data) -> Any:
    """What follows from other fields; None where these are missing or odd, which reading the config tells by name."""
    try:
        return function(data)
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def _rotary(dialect: GgufDialect, own: Data, data: Data, file: TensorSource, origin: str) -> Data:
    """Width and scaling of rotary positions; takes what it reads from `own`."""
    tensors = [name for name in ROTARY_TENSORS if name in file.shapes()]
    for name in tensors:
        if name not in dialect.rotary_tensors:
            raise UnsupportedModelError(f"{origin}: {name} scales rotary positions, which is not implemented")
    width = own.pop("rope.dimension_count", None)  # without a field for it compared with the head size later
    found: Data = {}
    if dialect.rotary_share is not None and width is not None:
        found[dialect.rotary_share] = _value(lambda data: _share(width, data), data)
    if not dialect.rotary_scaling:
        return found
    scaling = _scaling(own, data, {name: _divisors(file, name) for name in tensors}, origin)
    if "rope.scaling.original_context_length" in own:
        found["original_max_position_embeddings"] = own.pop("rope.scaling.original_context_length")
    own.pop("rope.scaling.finetuned", None)  # how the model was trained
    return found | ({"rope_scaling": scaling} if scaling else {})


def _scaling(own: Data, data: Data, tensors: Mapping[str, list[float]], origin: str) -> Data | None:
    """`rope_scaling`; the default of a factor without a type is linear, as llama.cpp has it."""
    longest = data.get("max_position_embeddings")
    original = own.get("rope.scaling.original_context_length", longest)
    kind = own.pop("rope.scaling.type", "linear")
    factor = own.pop("rope.scaling.factor", own.pop("rope.scale_linear", 0.0))
    factor = 1.0 if kind == "none" or factor == 0 else factor
    amplitude = own.pop("rope.scaling.attn_factor", 1.0)
    scaling: Data | None = None
    if tensors:
        first = tensors.get(_FREQS) or tensors.get(_SHORT)
        last = tensors.get(_FREQS) or tensors.get(_LONG)
        if kind == "yarn" or factor != 1.0 or first is None or last is None:
            raise UnsupportedModelError(
                f"{origin}: {' and '.join(tensors)} with rope.scaling.type {kind!r} and factor {factor} are not "
                "implemented: expected rope_freqs alone, or rope_factors_short and rope_factors_long"
            )
        within = longest if _FREQS in tensors else original  # these hold for every length
        scaling = {"rope_type": "longrope", "short_factor": first, "long_factor": last, "attention_factor": amplitude}
        scaling |= {"factor": 1.0} if _FREQS in tensors else {}
        return scaling | ({"original_max_position_embeddings": within} if within else {})
    if kind == "yarn":
        scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        for name in ("beta_fast", "beta_slow"):
            if f"rope.scaling.yarn_{name}" in own:
                scaling[name] = own.pop(f"rope.scaling.yarn_{name}")
        if own.get("rope.scaling.yarn_ext_factor") == 1.0:
            del own["rope.scaling.yarn_ext_factor"]
    elif kind in ("linear", "none", "longrope"):
        scaling = None if factor == 1.0 else {"rope_type": "linear", "factor": factor}
    else:
        raise UnsupportedModelError(f"{origin}: rope.scaling.type {kind!r} is not implemented; expected linear or yarn")
    if amplitude != 1.0:
        raise UnsupportedModelError(
            f"{origin}: rope.scaling.attn_factor = {amplitude} is not implemented for {kind} scaling; expected 1.0"
        )
    return scaling


def _divisors(file: TensorSource, name: str) -> list[float]:
    return [_plain(float(value)) for value in file.load(name).flatten()]


def _share(width: int, data: Mapping[str, Any]) -> float:
    """The share of each head that rotates: a number that times the head size, cut to a whole one, is `width`."""
    head_size = data.get("head_dim") or data["hidden_size"] // data["num_attention_heads"]
    share = width / head_size
    return share if int(head_size * share) == width else math.nextafter(share, 2.0)


def _plain(value: Any) -> Any:
    """float32 metadata as the shortest decimal that is the same float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
