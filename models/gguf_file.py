"""Opens a GGUF file: blocks dequantized, llama.cpp's rearrangements undone, config and tokenizer in Hugging Face form.

The format and its names: the GGUF specification of ggml, with the `gguf` package as reader.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from ..runtime.errors import CheckpointError, UnsupportedModelError
from .config import GPTConfig
from .families import gguf_family_of
from .gguf_config import ROTARY_TENSORS, check_rotary_width, config_json
from .gguf_rules import gguf_rules
from .gguf_tokenizer import end_of_text_ids, gguf_tokenizer_files
from .stored_matrix import StoredMatrix, matrices_of
from .tokenizer_files import to_json
from .weight_rules import Shape, WeightRule, canonical_shapes, read_weights


@dataclass(frozen=True)
class OpenedGguf:
    """What a GGUF file holds, in this package's terms."""

    config: GPTConfig
    weights: dict[str, torch.Tensor]
    files: dict[str, bytes]
    license: str | None
    stored: dict[str, StoredMatrix]  # the matrices, embeddings among them, as they lie in the file


class GgufFile:
    """Metadata and tensors of one GGUF file; tensors are mapped from disk and dequantized one by one."""

    def __init__(self, path: Path) -> None:
        self.origin = path.name
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise CheckpointError(
                    f"{path} is no GGUF file: expected one, or the directory of a Hugging Face checkpoint"
                )
        try:
            reader = gguf.GGUFReader(path)
            self.metadata: dict[str, Any] = {name: entry.contents() for name, entry in reader.fields.items()}
        except (ValueError, KeyError, IndexError, OverflowError, TypeError, OSError) as error:
            raise CheckpointError(
                f"{path} cannot be read as GGUF ({str(error)[:120]}): it is truncated or damaged; fetch it again"
            ) from error
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    def shapes(self) -> Mapping[str, Shape]:
        """Every tensor's shape by its name, outermost dimension first."""
        return {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in self._tensors.items()}

    def load(self, name: str) -> torch.Tensor:
        """One tensor, float32."""
        tensor = self._tensors[name]
        try:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise UnsupportedModelError(
                f"{self.origin}: {name} is of type {tensor.tensor_type.name}, which gguf cannot dequantize: "
                "take the model in another type"
            ) from error
        values = np.require(values, dtype=np.float32, requirements=["C", "W"])  # copies what is mapped read-only
        return torch.from_numpy(values.reshape(self.shapes()[name]))

    def matrices(self, rules: Sequence[WeightRule], canonical: Mapping[str, Shape]) -> dict[str, StoredMatrix]:
        """Every matrix by its canonical name, as it is stored."""
        found: dict[str, StoredMatrix] = {}
        for rule in rules:
            tensor = self._tensors[rule.source]
            if len(tensor.shape) == 2 and not rule.targets[0].endswith("_norm.weight"):
                shapes = [canonical[target] for target in rule.targets]
                kind = tensor.tensor_type.name
                found |= matrices_of(rule.source, kind, tensor.data, rule.layout, rule.targets, shapes)
        return found


def open_gguf(path: Path) -> OpenedGguf:
    """Read a GGUF file.

    Raises:
        CheckpointError: it is no GGUF, truncated, or its tensors are not what its metadata says.
        UnsupportedModelError: an architecture, tokenizer or choice that is not implemented, named.
    """
    file = GgufFile(path)
    metadata = file.metadata
    if metadata.get("split.count", 1) > 1:
        raise UnsupportedModelError(
            f"{path} is one part of {metadata['split.count']}: merge the parts into one file first"
        )
    if metadata.get("general.type", "model") != "model":
        raise UnsupportedModelError(f"{path} holds a {metadata['general.type']!r}, expected a model")
    family = gguf_family_of(str(metadata.get("general.architecture")), str(path), metadata)
    assert family.gguf is not None
    data = config_json(family.model_type, family.gguf, metadata, file, str(path))
    config = family.config_from(data, str(path))
    check_rotary_width(family.gguf, metadata, config, str(path))
    canonical = canonical_shapes(config)
    rules = gguf_rules(family.gguf, config, canonical, file.shapes())
    weights = read_weights(file, rules, canonical, ignorable=[re.escape(name) for name in ROTARY_TENSORS])
    ids = {"bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"), "eos_token_id": end_of_text_ids(metadata),
           "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id")}  # fmt: skip
    ids = {name: value for name, value in ids.items() if value is not None}
    files = gguf_tokenizer_files(
        metadata, vocab_size=config.vocab_size, context_length=config.context_length, origin=str(path)
    )
    files |= {"config.json": to_json(data | ids), "generation_config.json": to_json(ids)}
    return OpenedGguf(config, weights, files, metadata.get("general.license"), file.matrices(rules, canonical))
