"""Who takes part: every peer that can be installed and has its model, and the bundles that were named."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bandwidth.graph_bytes import step_bytes

from .environments import PACKAGE_PARENT, UnavailableError, clean_variables
from .peers import ctranslate2, genai, llamacpp, openvino, ortmodel, ours, pytorch
from .peers.peer import Peer
from .processes import Worker
from .runtime import Runtime
from .workspace import Workspace, file_bytes

PEERS: tuple[Peer, ...] = tuple(
    peer for module in (llamacpp, genai, ortmodel, ctranslate2, openvino, pytorch) for peer in module.PEERS
)
OURS_PREFIX = "onnxgpt "


@dataclass(frozen=True)
class Contestant:
    """One runtime with one model, ready to start."""

    name: str
    runtime: type[Runtime]
    model: Path
    python: Path
    variables: Mapping[str, str]
    weight_bytes: int
    versions: Mapping[str, str | None]
    read_bytes: int | None = None  # of weights, per decoded token

    def start(self, threads: int, log: Path) -> Worker:
        """Start its process; the model is not loaded yet."""
        command = [
            str(self.python), str(PACKAGE_PARENT / "compare" / "worker.py"), self.runtime.__module__,
            self.runtime.__name__, str(self.model), "--threads", str(threads),
        ]  # fmt: skip
        return Worker(command, dict(self.variables) | {"OMP_NUM_THREADS": str(threads)}, log)


def prepare(
    workspace: Workspace,
    bundles: Mapping[str, Path],
    only: Sequence[str],
    say: Callable[[str], None],
    peers: Sequence[Peer] = PEERS,
) -> tuple[list[Contestant], dict[str, str]]:
    """Install, convert, and find out who can take part.

    Args:
        workspace: where environments and converted models are or will be.
        bundles: ours, by the names that the tables show.
        only: parts of peers' names; empty: all peers.
        say: told what is being done.
        peers: who is asked.

    Returns:
        Contestants, and of those who can't take part: name → reason.
    """
    contestants = [our_bundle(name, path) for name, path in bundles.items()]
    missing: dict[str, str] = {}
    for peer in peers:
        if only and not any(part.lower() in peer.name.lower() for part in only):
            continue
        say(f"preparing {peer.name}")
        try:
            contestants.append(_prepare_peer(peer, workspace))
        except UnavailableError as error:
            missing[peer.name] = str(error)
            say(f"{peer.name} can't take part: {error}")
    return contestants, missing


def our_bundle(name: str, path: Path) -> Contestant:
    """A bundle, run by this interpreter with the onnxgpt that it imports."""
    import onnxgpt
    from onnxgpt.runtime.bundle import Bundle

    graph = Bundle.open(path).graph_path
    # Whether onnxgpt is installed or found through PYTHONPATH: the worker finds the same.
    variables = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path[1:] if entry)}
    return Contestant(
        name=OURS_PREFIX + name,
        runtime=ours.OnnxGpt,
        model=path.absolute(),
        python=Path(sys.executable),
        variables=variables,
        weight_bytes=sum(file_bytes(file) for file in path.glob(f"{graph.name}*")),
        read_bytes=step_bytes(graph).all,
        versions={"onnxgpt": onnxgpt.__version__, "onnxruntime": _version("onnxruntime")},
    )


def _prepare_peer(peer: Peer, workspace: Workspace) -> Contestant:
    environment = workspace.environment(peer.environment)
    environment.ensure(peer.requirements, from_source=peer.from_source, variables=peer.build_variables)
    model = peer.prepare(workspace)
    return Contestant(
        name=peer.name,
        runtime=peer.runtime,
        model=model.absolute(),
        python=environment.python.absolute(),
        variables=clean_variables(),
        weight_bytes=file_bytes(peer.weights(model)),
        versions=environment.versions(peer.reported),
    )


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
