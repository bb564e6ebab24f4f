"""What a training framework's checkpoint file is to this package: data and two small functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .family import Family
from .weight_rules import Shape


@dataclass(frozen=True)
class TrainingContent:
    """What such a file holds, in this package's terms."""

    family: Family
    fields: Mapping[str, Any]  # what the family's `read_config` reads
    tensors: Mapping[str, torch.Tensor]  # under the names that the family's rules know


@dataclass(frozen=True)
class TrainingLayout:
    """One framework's way to save a model for its own use."""

    kind: str  # its name in the bundle's manifest
    looks_like: str  # for messages: what a file of it holds
    recognizes: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], str], TrainingContent]  # (content, origin)


class NamedTensors:
    """Tensors that are in memory already; see `weight_rules.TensorSource`."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], origin: str) -> None:
        self.origin = origin
        self._tensors = tensors

    def shapes(self) -> Mapping[str, Shape]:
        """Every tensor's shape by its name."""
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def load(self, name: str) -> torch.Tensor:
        """One tensor in its stored type."""
        return self._tensors[name]
