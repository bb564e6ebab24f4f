"""Opens a checkpoint, wherever and in whatever form it is: configuration, weights and tokenizer, all checked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..runtime.errors import CheckpointError, OptionError, SourceNotFoundError
from .catalog import CATALOG, find, near_names
from .config import GPTConfig
from .config_fields import GENERATION_FIELDS
from .families import family_of
from .gguf_file import open_gguf
from .gpt import GPT
from .hub import fetch_snapshot, is_hub_id
from .lora import AdaptedTensors, Adapter, LoraChoice, open_adapters
from .stored_matrix import StoredMatrix
from .stored_tensors import open_weights
from .tokenizer_files import end_token_ids, read_json, to_json, tokenizer_files
from .training_checkpoint import find_training_file, open_training_checkpoint
from .weight_rules import TensorSource, canonical_shapes, read_weights


@dataclass(frozen=True)
class Checkpoint:
    """A model as read: nothing in it depends any more on the form it was stored in."""

    name: str
    config: GPTConfig
    weights: dict[str, torch.Tensor]  # float32, canonical names, matrices [in, out]; every key and shape checked
    files: dict[str, bytes]  # tokenizer.json, tokenizer_config.json, config.json, generation_config.json, …
    source: dict[str, Any]  # kind, location, revision, license, sha256 of each weight file
    stored: dict[str, StoredMatrix] = field(default_factory=dict)  # a GGUF file's matrices, as they lie in it


@dataclass(frozen=True)
class _Extras:
    """What the caller adds to a checkpoint."""

    adapters: tuple[Adapter, ...]
    tokenizer: Path | None


def open_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    lora: Sequence[LoraChoice] = (),
    tokenizer: str | Path | None = None,
) -> Checkpoint:
    """Open a path, a catalogue name or a hub id, in this order.

    A path is a Hugging Face directory, a GGUF file, or what nanoGPT or Megatron-LM saved: a file, or its directory.
    These carry no tokenizer: without `tokenizer` the checkpoint's `files` have none, and it can't be exported.

    Args:
        source: a path, a name of the catalogue, or `organisation/model`.
        revision: a branch, tag or commit; for a hub id only.
        lora: adapters to merge, in this order: directories, or pairs of a directory and a scale.
        tokenizer: a directory that holds a tokenizer, or a `tokenizer.json`, instead of the checkpoint's own.

    Raises:
        SourceNotFoundError: nothing of that name.
        CheckpointError: a config, tokenizer or weights that cannot be trusted, named.
        UnsupportedModelError: a family or a choice that is not implemented, named.
        DownloadError: the hub could not be reached or a file not be fetched.
        OptionError: a revision for something that is not on a hub, or adapters for something else than a directory.
    """
    path = Path(source)
    text = str(source)
    from_hub = not path.exists() and text not in CATALOG and is_hub_id(text)
    if revision is not None and not from_hub:
        raise OptionError(f"a revision ({revision!r}) is for a hub id (organisation/model), not for {text}")
    extras = _Extras(tuple(open_adapters(lora)), None if tokenizer is None else Path(tokenizer))
    if path.exists():
        return _open_path(path, extras)
    if text in CATALOG:
        return _open_catalogue_name(text, extras)
    if from_hub:
        snapshot = fetch_snapshot(text, revision)
        return _open_directory(
            snapshot.directory, extras, name=text.split("/")[1], kind="hub", location=text, revision=snapshot.commit
        )
    raise SourceNotFoundError(
        f"no checkpoint {text!r}: expected a directory, a .gguf file, a hub id (organisation/model) or a name of the "
        f"catalogue ({near_names(text)})"
    )


def build_gpt(checkpoint: Checkpoint) -> GPT:
    """The PyTorch model with the checkpoint's weights: in eval mode, without gradients, sharing the tensors' memory.

    Raises:
        CheckpointError: the weights are not exactly the module's parameters.
    """
    model = GPT(checkpoint.config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
    if expected != found:
        odd = sorted(set(expected.items()) ^ set(found.items()))
        raise CheckpointError(
            f"{checkpoint.name}: weights and module disagree on {odd[0][0]} ({len(odd)} difference(s))"
        )
    model.load_state_dict(checkpoint.weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _open_path(path: Path, extras: _Extras) -> Checkpoint:
    name = path.stem if path.is_file() else path.resolve().name
    trained = find_training_file(path)
    if trained is not None:
        return _open_training_file(trained, extras, name=name)
    if path.is_file():
        return _open_gguf_file(path, extras, name=name, location=path.name, license=None)
    return _open_directory(path, extras, name=name, kind="directory", location=name, revision=None)


def _open_catalogue_name(name: str, extras: _Extras) -> Checkpoint:
    entry = CATALOG[name]
    if entry.kind == "bundle":
        raise CheckpointError(f"{name} is a finished bundle, not a checkpoint: use it as it is (--model {name})")
    found = find(name)
    if found is None:
        raise SourceNotFoundError(f"{name} is not on this machine yet: fetch it with `onnxgpt pull {name}`")
    return _open_gguf_file(found, extras, name=name, location=name, license=entry.license)


def _open_gguf_file(path: Path, extras: _Extras, *, name: str, location: str, license: str | None) -> Checkpoint:
    _refuse_adapters(path, extras)
    opened = open_gguf(path)
    source = {
        "kind": "gguf",
        "location": location,
        "revision": None,
        "license": license or opened.license,
        "sha256": {path.name: _sha256(path)},
    }
    return _retokenized(Checkpoint(name, opened.config, opened.weights, opened.files, source, opened.stored), extras)


def _open_training_file(path: Path, extras: _Extras, *, name: str) -> Checkpoint:
    _refuse_adapters(path, extras)
    opened = open_training_checkpoint(path)
    files = {}
    if extras.tokenizer is not None:
        files = tokenizer_files(extras.tokenizer, vocab_size=opened.config.vocab_size)
    ids = end_token_ids(files) if files else {}
    files |= {"config.json": to_json(opened.config_json | ids), "generation_config.json": to_json(ids)}
    source = {
        "kind": opened.kind,
        "location": name,
        "revision": None,
        "license": None,
        "sha256": {path.name: _sha256(path)},
    }
    return Checkpoint(name, opened.config, opened.weights, files, source)


def _refuse_adapters(path: Path, extras: _Extras) -> None:
    if extras.adapters:
        raise OptionError(
            f"{path.name} has other names than the adapter {extras.adapters[0].origin}: merge adapters into the "
            "Hugging Face directory that they were trained on"
        )


def _retokenized(checkpoint: Checkpoint, extras: _Extras) -> Checkpoint:
    """The checkpoint with the tokenizer that the caller gave, if any."""
    if extras.tokenizer is None:
        return checkpoint
    own = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    kept = {name: content for name, content in checkpoint.files.items() if name not in own}
    given = tokenizer_files(extras.tokenizer, vocab_size=checkpoint.config.vocab_size)
    return replace(checkpoint, files=kept | given)


def _open_directory(
    path: Path, extras: _Extras, *, name: str, kind: str, location: str, revision: str | None
) -> Checkpoint:
    config_path = path / "config.json"
    if (path / "bundle.json").is_file():
        raise CheckpointError(f"{path} is a bundle already: expected a checkpoint to export")
    if not config_path.is_file():
        raise CheckpointError(
            f"{path} has no config.json: expected a Hugging Face checkpoint (config.json, weights, tokenizer), or what "
            "nanoGPT or Megatron-LM saved; a GGUF model is given as the path of its file"
        )
    data = read_json(config_path)
    family = family_of(data, str(config_path))
    config = family.config_from(data, str(config_path))
    tokenizer = tokenizer_files(extras.tokenizer or path, vocab_size=config.vocab_size)
    stored: TensorSource
    stored, weight_files = open_weights(path)
    if extras.adapters:
        stored = AdaptedTensors(stored, extras.adapters, family, config)
    weights = read_weights(
        stored,
        family.weight_rules(config),
        canonical_shapes(config),
        prefix=family.prefix,
        ignorable=family.ignorable,
        copies={family.head: family.embedding} if config.tied_head else None,
    )
    files = tokenizer | {"config.json": config_path.read_bytes(), "generation_config.json": _generation(path, data)}
    source: dict[str, Any] = {
        "kind": kind,
        "location": location,
        "revision": revision,
        "license": license_of(path),
        "sha256": {file.name: _sha256(file) for file in weight_files},
    }
    if extras.adapters:
        source["adapters"] = [adapter.to_dict() for adapter in extras.adapters]
    return Checkpoint(name, config, weights, files, source)


def _generation(directory: Path, config: dict[str, Any]) -> bytes:
    """The checkpoint's `generation_config.json`, or, as transformers does without one, what its config says."""
    path = directory / "generation_config.json"
    if path.is_file():
        read_json(path)  # refuse what is no JSON object
        return path.read_bytes()
    return to_json({name: config[name] for name in sorted(GENERATION_FIELDS) if config.get(name) is not None})


def license_of(directory: Path) -> str | None:
    """What the front matter of the model card says."""
    card = directory / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*([\w.\-]+)\s*$", front.group(1), re.MULTILINE) if front else None
    return found.group(1) if found else None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
