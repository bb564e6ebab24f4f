"""What a family of GPTs is to this package: data and two small functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..runtime.errors import CheckpointError
from .config import GPTConfig
from .config_fields import ConfigReader
from .weight_rules import WeightRule


@dataclass(frozen=True, kw_only=True)
class GgufDialect:
    """How GGUF writes this family: its config comes back as a Hugging Face one, its tensors by common rules."""

    architecture: str  # general.architecture
    marked_by: str | None = None  # metadata key by which this family is told from another of the same architecture
    fields: Mapping[str, str]  # metadata key, without "{architecture}." → field of config.json
    constants: Mapping[str, Any] = field(default_factory=dict)  # fields of config.json that GGUF leaves unsaid
    # Fields of config.json that follow from others where the file does not say them.
    computed: Mapping[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)
    # Metadata that can only say what follows from config.json.
    repeated: Mapping[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)
    # Metadata that changes nothing under one of these values; any other key or value is refused by name.
    inactive: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)  # tensor → field of config.json: whether it is there
    absent_flags: Mapping[str, str] = field(default_factory=dict)  # tensor → field: whether it is not there
    rotary_share: str | None = None  # field of config.json for rope.dimension_count; None: all of each head rotates
    rotary_scaling: bool = False  # rope.scaling.* is understood
    rotary_tensors: Sequence[str] = ()  # divisors of rotary frequencies that the architecture may have
    fused_attention: bool = False  # query, key and value are always in one attn_qkv; elsewhere a file may have them so
    fused_gate: bool = False  # the MLP's gate stands above its up in one ffn_up
    regrouped_rotary: bool = False  # llama.cpp's order of query and key rows


@dataclass(frozen=True, kw_only=True)
class Family:
    """One `model_type` of transformers."""

    model_type: str
    known_as: str = ""  # models of this family that people know, for the list of families
    limits: str = ""  # what of the family is refused or cut short, in a few words
    architectures: tuple[str, ...]  # classes whose checkpoints are causal language models of this family
    read_config: Callable[[ConfigReader], GPTConfig]
    weight_rules: Callable[[GPTConfig], Sequence[WeightRule]]
    prefix: str = ""  # of stored names; absent from checkpoints of the bare model
    head: str = "lm_head.weight"  # the stored name of the head, and of what it repeats when tied
    embedding: str
    ignorable: tuple[str, ...] = ()  # patterns of stored names (without prefix) that hold no weights
    gguf: GgufDialect | None = None

    def config_from(self, data: Mapping[str, Any], origin: str) -> GPTConfig:
        """Read a `config.json` of this family; `origin` names the file in messages.

        Raises:
            CheckpointError: a field is missing, out of range or does not fit another.
            UnsupportedModelError: a field that asks for what is not implemented, or that nobody knows, named.
        """
        fields = ConfigReader(data, origin)
        fields.architectures(self.architectures)
        try:
            config = self.read_config(fields)
        except CheckpointError:
            raise
        except ValueError as error:  # GPTConfig's own checks
            raise CheckpointError(f"{origin}: {error}") from error
        fields.finish()
        return config
