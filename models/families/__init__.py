"""The families, one small module each: its config mapping and its weight-name mapping, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...runtime.errors import CheckpointError, UnsupportedModelError
from ..family import Family
from ..training_layout import TrainingLayout
from .bloom import BLOOM
from .gpt2 import GPT2
from .gpt_neo import GPT_NEO
from .gpt_neox import GPT_NEOX
from .gptj import GPTJ
from .llama import LLAMA, MISTRAL
from .megatron import MEGATRON
from .nanogpt import NANOGPT
from .openai_gpt import OPENAI_GPT
from .opt import OPT

FAMILIES: Mapping[str, Family] = {
    family.model_type: family for family in (GPT2, LLAMA, MISTRAL, OPENAI_GPT, GPT_NEO, GPTJ, GPT_NEOX, OPT, BLOOM)
}

# What training frameworks save for themselves, without a config.json.
TRAINING_LAYOUTS: Sequence[TrainingLayout] = (NANOGPT, MEGATRON)


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
            f"{origin}: the family {name!r} is not implemented; implemented are {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[name]


def gguf_family_of(architecture: str, origin: str) -> Family:
    """The family that a GGUF file's `general.architecture` names.

    Raises:
        UnsupportedModelError: one that is not implemented, named.
    """
    known = {family.gguf.architecture: family for family in FAMILIES.values() if family.gguf}
    if architecture not in known:
        raise UnsupportedModelError(
            f"{origin}: the architecture {architecture!r} is not implemented; expected {' or '.join(sorted(known))}"
        )
    return known[architecture]
