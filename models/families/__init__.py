"""The families, one small module each: its config mapping and its weight-name mapping, nothing else.

Nothing here needs PyTorch to be installed, but for the layouts of training frameworks, which are not listed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ...runtime.errors import CheckpointError, UnsupportedModelError
from ..family import Family

# The registry: a family is its module here and one line below.
_MODULES = (
    "openai_gpt",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "gptj",
    "gpt_neox",
    "opt",
    "bloom",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "phi",
    "phi3",
    "stablelm",
    "starcoder2",
)

FAMILIES: Mapping[str, Family] = {
    family.model_type: family for family in (import_module(f".{name}", __name__).FAMILY for name in _MODULES)
}


def family_of(config: Mapping[str, Any], origin: str) -> Family:
    """The family that a Hugging Face config names.

    Raises:
        CheckpointError: it names none.
        UnsupportedModelError: a family that is not implemented, named.
    """
    name = config.get("model_type")
    if not isinstance(name, str):
        raise CheckpointError(f"{origin} has no model_type: expected one of {', '.join(sorted(FAMILIES))}")
    if name not in FAMILIES:
        raise UnsupportedModelError(
            f"{origin}: the family {name!r} is not implemented; implemented are {', '.join(sorted(FAMILIES))}; "
            "others can be exported with --via optimum"
        )
    return FAMILIES[name]


def gguf_family_of(architecture: str, origin: str, metadata: Mapping[str, Any] | None = None) -> Family:
    """The family of a GGUF file by its `general.architecture` and, where several share one, by its metadata.

    Raises:
        UnsupportedModelError: one that is not implemented, named.
    """
    plain, marked = {}, {}
    for family in FAMILIES.values():
        if family.gguf is None:
            continue
        name, mark = family.gguf.architecture, family.gguf.marked_by
        if mark is None:
            plain[name] = family
        elif (metadata or {}).get(f"{name}.{mark}"):
            marked[name] = family
    if architecture not in plain:
        raise UnsupportedModelError(
            f"{origin}: the architecture {architecture!r} is not implemented; expected {' or '.join(sorted(plain))}"
        )
    return marked.get(architecture, plain[architecture])
