"""Opens what training frameworks save for themselves: pickles, whose tensors and plain data are read, nothing run."""

from __future__ import annotations

import argparse
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from ..runtime.errors import CheckpointError
from .config import GPTConfig
from .families.megatron import MEGATRON
from .families.nanogpt import NANOGPT
from .training_layout import NamedTensors, TrainingLayout
from .weight_rules import canonical_shapes, read_weights

TRAINING_LAYOUTS: tuple[TrainingLayout, ...] = (NANOGPT, MEGATRON)
_MEGATRON_FILE = "model_optim_rng.pt"
_NANOGPT_FILE = "ckpt.pt"
_TRACKER = "latest_checkpointed_iteration.txt"
# Objects of these packages (random states, enumerations, loss scalers) are read as empty shells: no use for them here.
_EMPTIED = ("megatron", "fp16", "apex", "transformer_engine", "numpy", "_codecs")
_LEGACY_PICKLES = 4  # magic number, protocol, system, content: the form before torch 1.6


@dataclass(frozen=True)
class OpenedTraining:
    """What such a file holds, in this package's terms. It carries no tokenizer."""

    kind: str
    config: GPTConfig
    weights: dict[str, torch.Tensor]
    config_json: dict[str, Any]


class Shell:
    """Takes the place of any object that is not needed: it keeps nothing and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Shell:
        """Whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Forget them."""

    def __setstate__(self, _: Any) -> None:
        """Forget this, too."""


def find_training_file(path: Path) -> Path | None:
    """The file to read when `path` is, or holds, a training framework's checkpoint; None when it is something else.

    Raises:
        CheckpointError: a Megatron-LM directory of more than one rank, or that lacks what it names.
    """
    if path.is_file():
        with path.open("rb") as stream:
            return path if stream.read(2).startswith((b"PK", b"\x80")) else None
    if (path / "config.json").is_file() or (path / "bundle.json").is_file():
        return None
    if (path / _NANOGPT_FILE).is_file():
        return path / _NANOGPT_FILE
    return _find_megatron_file(path)


def open_training_checkpoint(path: Path) -> OpenedTraining:
    """Read one file of nanoGPT or Megatron-LM.

    Raises:
        CheckpointError: it is truncated, holds code, or its tensors are not what its arguments say.
        UnsupportedModelError: a layout or choice that is not implemented, named.
    """
    content = _load(path)
    layout = next((layout for layout in TRAINING_LAYOUTS if layout.recognizes(content)), None)
    if layout is None:
        held = ", ".join(sorted(map(str, content))[:4]) or "nothing"
        expected = " or ".join(layout.looks_like for layout in TRAINING_LAYOUTS)
        raise CheckpointError(f"{path} holds {held}: expected {expected}")
    read = layout.read(content, str(path))
    config = read.family.config_from(read.fields, f"{path}: {layout.kind} arguments")
    weights = read_weights(
        NamedTensors(read.tensors, path.name),
        read.family.weight_rules(config),
        canonical_shapes(config),
        ignorable=read.family.ignorable,
        copies={read.family.head: read.family.embedding} if config.tied_head else None,
    )
    return OpenedTraining(layout.kind, config, weights, _config_json(config))


def _find_megatron_file(path: Path) -> Path | None:
    tracker = path / _TRACKER
    if tracker.is_file():
        step = tracker.read_text(encoding="utf-8", errors="replace").strip()
        name = f"iter_{int(step):07d}" if re.fullmatch(r"\d{1,12}", step) else "release"
        if not (path / name).is_dir():
            raise CheckpointError(f"{path} has no {name}, which its {_TRACKER} names: copy the whole checkpoint")
        path = path / name
    if (path / _MEGATRON_FILE).is_file():
        return path / _MEGATRON_FILE
    ranks = sorted(entry.name for entry in path.iterdir() if re.fullmatch(r"mp_rank_\d+(_\d+)*", entry.name))
    if len(ranks) > 1:
        raise CheckpointError(
            f"{path} holds {len(ranks)} ranks ({ranks[0]} to {ranks[-1]}): expected one; merge them with Megatron-LM's "
            "tools/checkpoint (target tensor and pipeline parallel size 1)"
        )
    if ranks and not (path / ranks[0] / _MEGATRON_FILE).is_file():
        raise CheckpointError(f"{path / ranks[0]} has no {_MEGATRON_FILE}: copy the whole checkpoint")
    return path / ranks[0] / _MEGATRON_FILE if ranks else None


def _load(path: Path) -> Mapping[str, Any]:
    shells: list[Any] = [(Shell, name) for name in _globals_of(path) if name.split(".")[0] in _EMPTIED]
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *shells]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is no plain file of tensors ({_first_line(error)}): it is truncated, or holds code, which "
            "is never run"
        ) from error
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({_first_line(error)}): it is truncated or damaged; copy it again"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds {type(content).__name__}, expected what a training framework saves")
    return content


def _globals_of(path: Path) -> set[str]:
    """Every class or function that the file's pickle names, read without running it."""
    names = set()
    try:
        for stream in _pickles_of(path):
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    names.add(str(argument).replace(" ", "."))
    except (OSError, ValueError, KeyError, IndexError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} cannot be read ({_first_line(error)}): it is truncated or damaged; copy it again"
        ) from error
    return names


def _pickles_of(path: Path) -> Iterator[IO[bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    with archive.open(name) as stream:
                        yield stream
        return
    with path.open("rb") as stream:
        for _ in range(_LEGACY_PICKLES):
            yield stream


def _config_json(config: GPTConfig) -> dict[str, Any]:
    """Sizes as Hugging Face names them, for tools that read a bundle's `config.json`; they need the sizes alone."""
    if config.position == "learned":
        return {
            "model_type": "gpt2",
            "vocab_size": config.vocab_size,
            "n_positions": config.context_length,
            "n_embd": config.hidden_size,
            "n_layer": config.num_layers,
            "n_head": config.num_heads,
            "n_inner": config.intermediate_size,
            "layer_norm_epsilon": config.norm_epsilon,
            "tie_word_embeddings": config.tied_head,
        }
    return {
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.intermediate_size,
        "tie_word_embeddings": config.tied_head,
    }


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:120] or type(error).__name__
