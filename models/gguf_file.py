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
from .family import Family, GgufDialect
from .gguf_tokenizer import end_of_text_ids, gguf_tokenizer_files
from .stored_matrix import StoredMatrix, matrices_of
from .tokenizer_files import to_json
from .weight_rules import (
    AS_STORED,
    OUT_IN,
    Shape,
    WeightRule,
    canonical_shapes,
    read_weights,
    regrouped_rotary_heads,
)

# Canonical names without ".weight" or ".bias"; the names of GGUF are the same for every architecture.
_OUTSIDE_BLOCKS = {
    "token_embedding": "token_embd",
    "position_embedding": "position_embd",
    "final_norm": "output_norm",
    "head": "output",
}
_INSIDE_BLOCKS = {
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
}


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
            if len(tensor.shape) == 2:
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
    metadata, shapes = file.metadata, file.shapes()
    if metadata.get("split.count", 1) > 1:
        raise UnsupportedModelError(
            f"{path} is one part of {metadata['split.count']}: merge the parts into one file first"
        )
    if metadata.get("general.type", "model") != "model":
        raise UnsupportedModelError(f"{path} holds a {metadata['general.type']!r}, expected a model")
    family = gguf_family_of(str(metadata.get("general.architecture")), str(path))
    assert family.gguf is not None
    data = _config_json(family, family.gguf, metadata, shapes, str(path))
    config = family.config_from(data, str(path))
    _check_rotary_width(family.gguf, metadata, config, str(path))
    canonical = canonical_shapes(config)
    rules = _rules(family.gguf, config, canonical)
    weights = read_weights(file, rules, canonical)
    ids = {"bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"), "eos_token_id": end_of_text_ids(metadata),
           "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id")}  # fmt: skip
    ids = {name: value for name, value in ids.items() if value is not None}
    files = gguf_tokenizer_files(
        metadata, vocab_size=config.vocab_size, context_length=config.context_length, origin=str(path)
    )
    files |= {"config.json": to_json(data | ids), "generation_config.json": to_json(ids)}
    return OpenedGguf(config, weights, files, metadata.get("general.license"), file.matrices(rules, canonical))


def _config_json(
    family: Family, dialect: GgufDialect, metadata: Mapping[str, Any], shapes: Mapping[str, Shape], origin: str
) -> dict[str, Any]:
    """The `config.json` that the model would have in a Hugging Face directory.

    Only keys under the architecture's name describe the network; each is used, known to do nothing, or refused.
    """
    for name in ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"):
        if name in shapes:
            raise UnsupportedModelError(f"{origin}: {name} scales rotary positions, which is not implemented")
    if "token_embd.weight" not in shapes:
        raise CheckpointError(f"{origin} lacks token_embd.weight: expected the weights of a whole model")
    vocab_size = shapes["token_embd.weight"][0]
    data = {"model_type": family.model_type, "vocab_size": vocab_size} | dict(dialect.constants)
    own = {
        name.removeprefix(f"{dialect.architecture}."): _plain(value)
        for name, value in metadata.items()
        if name.startswith(f"{dialect.architecture}.")
    }
    if own.pop("vocab_size", vocab_size) != vocab_size:
        raise CheckpointError(
            f"{origin}: token_embd.weight has {vocab_size} rows, {dialect.architecture}.vocab_size differs"
        )
    own.pop("rope.dimension_count", None)  # compared with the head size once that is known
    if own.pop("attention.value_length", own.get("attention.key_length")) != own.get("attention.key_length"):
        raise UnsupportedModelError(f"{origin}: values of another size than keys are not implemented")
    for name, field in dialect.fields.items():
        if name in own:
            data[field] = own.pop(name)
    for name, value in own.items():
        if value not in dialect.inactive.get(name, ()):
            shown = f"{dialect.architecture}.{name} = {value!r}"[:100]
            raise UnsupportedModelError(f"{origin}: {shown} is not implemented for this architecture")
    data |= {field: True for tensor, field in dialect.flags.items() if tensor in shapes}
    return data | {"tie_word_embeddings": "output.weight" not in shapes, "torch_dtype": "float32"}


def _check_rotary_width(dialect: GgufDialect, metadata: Mapping[str, Any], config: GPTConfig, origin: str) -> None:
    width = metadata.get(f"{dialect.architecture}.rope.dimension_count")
    if width is not None and config.position == "rotary" and width != config.rotary_width:
        raise UnsupportedModelError(
            f"{origin}: {width} elements of each head rotate, expected {config.rotary_width}, the whole head"
        )


def _plain(value: Any) -> Any:
    """float32 metadata as the shortest decimal that is the same float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _rules(dialect: GgufDialect, config: GPTConfig, canonical: Mapping[str, Shape]) -> list[WeightRule]:
    rules = []
    for name, shape in canonical.items():
        stem, kind = name.rsplit(".", 1)
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", stem)
        if match is None:
            layout = OUT_IN if stem == "head" else AS_STORED
            rules.append(WeightRule(f"{_OUTSIDE_BLOCKS[stem]}.{kind}", (name,), layout))
            continue
        block, part = f"blk.{match.group(1)}", match.group(2)
        if dialect.fused_attention and part in ("attention.key", "attention.value"):
            continue
        if dialect.fused_attention and part == "attention.query":
            parts = tuple(name.replace("query", each) for each in ("query", "key", "value"))
            rules.append(WeightRule(f"{block}.attn_qkv.{kind}", parts, OUT_IN))
            continue
        layout = OUT_IN if len(shape) == 2 else AS_STORED
        if dialect.regrouped_rotary and part in ("attention.query", "attention.key"):
            layout = regrouped_rotary_heads(config.head_size)
        rules.append(WeightRule(f"{block}.{_INSIDE_BLOCKS[part]}.{kind}", (name,), layout))
    return rules
