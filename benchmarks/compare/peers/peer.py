"""What a peer is to the comparison. Standard library only: peers' modules are imported in their environments too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..runtime import Runtime
from ..workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One runtime with one precision of the model.

    `prepare` converts the weights, or finds them converted, and returns what the worker loads.
    """

    name: str  # as the tables show it
    runtime: type[Runtime]
    environment: str  # directory name; peers may share one
    requirements: tuple[str, ...]
    prepare: Callable[[Workspace], Path]
    weights: Callable[[Path], Path]  # what of it holds the weights: its size is the table's "file"
    from_source: bool = False  # build the first requirement for this machine
    build_variables: Mapping[str, str] = field(default_factory=dict)
    reported: tuple[str, ...] = ()  # distributions whose versions go into the report


def itself(path: Path) -> Path:
    """For peers whose model is one file, or a directory with nothing else worth counting."""
    return path
