"""Tensors in the files of a Hugging Face directory: safetensors or legacy pickles, whole or in shards, read lazily."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open

from ..runtime.errors import CheckpointError
from .weight_rules import Shape

SAFETENSORS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"


class SafetensorsFile:
    """One `.safetensors` file; its tensors are mapped from disk when asked for."""

    def __init__(self, path: Path) -> None:
        self.origin = path.name
        try:
            self._file = cast(Any, safe_open(path, framework="pt"))  # the package carries no types
            self._shapes = {name: tuple(self._file.get_slice(name).get_shape()) for name in self._file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} cannot be read as safetensors ({error}): it is truncated or damaged; fetch it again"
            ) from error

    def shapes(self) -> Mapping[str, Shape]:
        """Every tensor's shape by its name."""
        return self._shapes

    def load(self, name: str) -> torch.Tensor:
        """One tensor in its stored type."""
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor


class PickleFile:
    """One legacy `.bin` file, read with `weights_only=True`: it can hold tensors and nothing that runs."""

    def __init__(self, path: Path) -> None:
        self.origin = path.name
        try:
            # Only the zip form can be mapped; the form before torch 1.6 is read whole.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path} is no plain file of tensors ({_first_line(error)}): it is truncated, or holds code, which "
                "is never run; convert it to safetensors where you trust it"
            ) from error
        except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({_first_line(error)}): it is truncated or damaged; fetch it again"
            ) from error
        if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise CheckpointError(f"{path} holds {type(content).__name__}, expected tensors by name: a state dict")
        self._tensors: Mapping[str, torch.Tensor] = content

    def shapes(self) -> Mapping[str, Shape]:
        """Every tensor's shape by its name."""
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def load(self, name: str) -> torch.Tensor:
        """One tensor in its stored type."""
        return self._tensors[name]


class Shards:
    """Several files and the index that says which tensor is where; the two must agree."""

    def __init__(self, index: Path, opener: Callable[[Path], SafetensorsFile | PickleFile]) -> None:
        self.origin = index.name
        self.places = _read_index(index)
        self._files = {name: opener(index.parent / name) for name in sorted(set(self.places.values()))}
        for name, file in self._files.items():
            listed = {tensor for tensor, place in self.places.items() if place == name}
            odd = sorted(listed ^ set(file.shapes()))
            if odd:
                raise CheckpointError(
                    f"{index} and {name} disagree on {odd[0]} ({len(odd)} tensor(s)): expected each tensor in the "
                    "file that the index names; fetch the checkpoint again"
                )

    def shapes(self) -> Mapping[str, Shape]:
        """Every tensor's shape by its name."""
        return {name: self._files[place].shapes()[name] for name, place in self.places.items()}

    def load(self, name: str) -> torch.Tensor:
        """One tensor in its stored type."""
        return self._files[self.places[name]].load(name)


def open_weights(directory: Path) -> tuple[SafetensorsFile | PickleFile | Shards, list[Path]]:
    """The tensors of a Hugging Face directory and the files they are in; safetensors win over pickles.

    Raises:
        CheckpointError: no weights, or files that are truncated, damaged or disagree with their index.
    """
    openers: dict[str, Callable[[Path], SafetensorsFile | PickleFile]] = {
        SAFETENSORS_FILE: SafetensorsFile,
        PICKLE_FILE: PickleFile,
    }
    for name, opener in openers.items():
        whole, index = directory / name, directory / f"{name}.index.json"
        if whole.is_file():
            return opener(whole), [whole]
        if index.is_file():
            shards = Shards(index, opener)
            return shards, [directory / place for place in sorted(set(shards.places.values()))]
    raise CheckpointError(
        f"{directory} holds no weights: expected {SAFETENSORS_FILE}, {PICKLE_FILE}, or one of them in shards with its "
        "index; fetch the whole checkpoint"
    )


def _read_index(index: Path) -> dict[str, str]:
    try:
        places: Any = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(place, str) for place in places.values()):
            raise TypeError("a place that is no file name")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of shards ({error!r}): fetch it again") from error
    for place in set(places.values()):
        if Path(place).name != place or "\\" in place:
            raise CheckpointError(f"{index} names the file {place!r}: expected one beside it; do not trust it")
        if not (index.parent / place).is_file():
            raise CheckpointError(f"{index} names {place}, which is missing: fetch the whole checkpoint")
    return dict(places)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:120] or type(error).__name__
