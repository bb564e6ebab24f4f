"""ONNX Runtime's own options of its providers: which there are, and what values they take.

Sources: "CUDA Execution Provider" and "DirectML Execution Provider" in ONNX Runtime's documentation, and the names that
the libraries of onnxruntime-gpu 1.31.1 and onnxruntime-directml 1.24.4 hold.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from .errors import OptionError
from .memory import parse_bytes

if TYPE_CHECKING:
    from .settings import SessionSettings

_TRUTHS = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True)
class ProviderOption:
    """One option: a flag, a whole number, a size in bytes, or one of some words."""

    kind: str  # "flag", "number", "bytes" or "word"
    words: tuple[str, ...] = ()
    truths: tuple[str, str] = ("0", "1")  # how a flag is written, false and true

    def read(self, value: object) -> str | None:
        """The value as ONNX Runtime wants it; None where it is none."""
        text = str(value).strip()
        if self.kind == "flag":
            truth = _TRUTHS.get(text.lower())
            return None if truth is None else self.truths[truth]
        if self.kind == "word":
            return next((word for word in self.words if word.lower() == text.lower()), None)
        if self.kind == "bytes":
            try:
                return str(parse_bytes(text))
            except OptionError:
                return None
        return text if text.isascii() and text.isdigit() else None

    @property
    def expected(self) -> str:
        """What values it takes, for people."""
        if self.kind == "flag":
            return "0 or 1"
        sizes = {"number": "a whole number", "bytes": "bytes, or a number with MB, GB, MiB or GiB"}
        return sizes.get(self.kind, " or ".join(self.words))


_FLAG, _NUMBER = ProviderOption("flag"), ProviderOption("number")
OPTIONS: Mapping[str, Mapping[str, ProviderOption]] = MappingProxyType(
    {
        "cpu": {},
        "cuda": {
            "device_id": _NUMBER,
            "gpu_mem_limit": ProviderOption("bytes"),
            "arena_extend_strategy": ProviderOption("word", ("kNextPowerOfTwo", "kSameAsRequested")),
            "cudnn_conv_algo_search": ProviderOption("word", ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")),
            "cudnn_conv_use_max_workspace": _FLAG,
            "cudnn_conv1d_pad_to_nc1d": _FLAG,
            "do_copy_in_default_stream": _FLAG,
            "enable_cuda_graph": _FLAG,
            "enable_skip_layer_norm_strict_mode": _FLAG,
            "fuse_conv_bias": _FLAG,
            "prefer_nhwc": _FLAG,
            "sdpa_kernel": _NUMBER,
            "tunable_op_enable": _FLAG,
            "tunable_op_tuning_enable": _FLAG,
            "tunable_op_max_tuning_duration_ms": _NUMBER,
            "use_ep_level_unified_stream": _FLAG,
            "use_tf32": _FLAG,
        },
        "dml": {
            "device_id": _NUMBER,
            "disable_metacommands": ProviderOption("flag", truths=("False", "True")),
        },
    }
)

# Known, and not taken: a wrong address ends the process, and a device that DirectML finds by a description may not be
# the one that the cache is on.
_ADDRESS = "it takes an address in this process, which nobody here can give"
_DESCRIPTION = "a device is named by its number here: give device"
REFUSED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "cpu": {},
        "cuda": {
            "has_user_compute_stream": _ADDRESS,
            "user_compute_stream": _ADDRESS,
            "gpu_external_alloc": _ADDRESS,
            "gpu_external_free": _ADDRESS,
            "gpu_external_empty_cache": _ADDRESS,
        },
        "dml": {"performance_preference": _DESCRIPTION, "device_filter": _DESCRIPTION},
    }
)

# What we set where the user says nothing. The arena takes what is asked for, not the next power of two: caches grow by
# reallocation, and half of each would lie idle. TensorFloat-32 would round the products of float32 graphs to 10 bits,
# where float32 was asked for; half-precision graphs don't use it. Skip-norms add up in half precision unless strict.
_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "cuda": {
        "arena_extend_strategy": "kSameAsRequested",
        "enable_skip_layer_norm_strict_mode": "1",
        "use_tf32": "0",
    },
}


def provider_arguments(settings: SessionSettings, provider: str, first_device: int = 0) -> dict[str, str]:
    """All options to open a session with on a provider, as ONNX Runtime wants them.

    Args:
        settings: of the user.
        provider: `cpu`, `cuda` or `dml`.
        first_device: the device's number where the settings name none.

    Raises:
        OptionError: an option that the provider does not have, or a value that the option does not take.
    """
    given = checked_options(provider, settings.provider_options)
    if provider == "cpu":
        return given
    device = settings.device_number
    chosen = {"device_id": str(first_device if device is None else device)}
    if settings.cuda_graph:
        chosen["enable_cuda_graph"] = "1"
    return dict(_DEFAULTS.get(provider, {})) | chosen | given


def checked_options(provider: str, given: Mapping[str, object]) -> dict[str, str]:
    """The user's options of a provider, checked. Errors as `provider_arguments`."""
    known = OPTIONS[provider]
    return {name: _checked(provider, name, value, known) for name, value in given.items()}


def _checked(provider: str, name: str, value: object, known: Mapping[str, ProviderOption]) -> str:
    if not known:
        raise OptionError(f"provider option {name!r}: {provider} has no options; leave it out")
    if name in REFUSED[provider]:
        raise OptionError(f"{provider}'s provider option {name} is not taken: {REFUSED[provider][name]}")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        raise OptionError(f"{provider} has no provider option {name!r}: {hint}")
    read = known[name].read(value)
    if read is None:
        raise OptionError(f"provider option {name} is {value!r}: expected {known[name].expected}")
    return read
