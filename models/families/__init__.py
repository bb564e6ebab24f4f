"""The families, one small module each: its config mapping and its weight-name mapping, nothing else.

Nothing here needs PyTorch to be installed, but for the layouts of training frameworks, which are not listed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...runtime.errors import CheckpointError, UnsupportedModelError
from ..family import Family
from .bloom import BLOOM
from .gemma import GEMMA
from .gemma2 import GEMMA2
from .gemma3 import GEMMA3_TEXT
from .gpt2 import GPT2
from .gpt_neo import GPT_NEO
from .gpt_neox import GPT_NEOX
from .gptj import GPTJ
from .llama import LLAMA
from .mistral import MISTRAL
from .openai_gpt import OPENAI_GPT
from .opt import OPT
from .phi import PHI
from .phi3 import PHI3
from .qwen2 import QWEN2
from .qwen3 import QWEN3
from .stablelm import STABLELM
from .starcoder2 import STARCODER2

FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        OPENAI_GPT, GPT2, GPT_NEO, GPTJ, GPT_NEOX, OPT, BLOOM, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, GEMMA2, GEMMA3_TEXT,
        PHI, PHI3, STABLELM, STARCODER2,
    )
}  # fmt: skip


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
