"""The manifest of a bundle, `bundle.json`: what it says, read strictly and written plainly."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import BundleError

FORMAT = "onnxgpt-bundle"
FORMAT_VERSION = 1
MANIFEST_NAME = "bundle.json"
IMPORTED = "imported"  # operators of a graph that somebody else exported: whatever they are


@dataclass(frozen=True)
class FileRecord:
    """One file of a bundle: its size in bytes and the SHA-256 of its content, in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class GraphRecord:
    """What the manifest says of the graph; its inputs and outputs are read from the graph itself."""

    file: str = "model.onnx"
    dtype: str = "float32"  # of weights, cache and logits
    operators: str = "fused"  # or "standard": nodes of the ONNX domain alone; or IMPORTED
    target: str = "cpu"
    wide_residual: bool = False  # of a half type: the residual stream is in float32
    # True: past and present may be one buffer, longer than the sequence so far. False: present = past + new.
    shares_cache_buffer: bool = True
    chunked_prefill: bool = True  # several new tokens on top of a past are allowed (batch 1)
    foreign: bool = False  # exported by somebody else: masks are exact, rows stepped alone unless buffers are shared
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


PLAIN_GRAPH = GraphRecord()  # of a graph that no manifest describes


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`bundle.json`, version 1. Reports are plain data, written by the tools that made them."""

    name: str
    graph: GraphRecord
    architecture: dict[str, Any]  # the fields of GPTConfig
    source: dict[str, Any]  # kind, location, revision, license, sha256 of each weight file
    matrices: tuple[dict[str, Any], ...] = ()  # role, layer and packed parts of every matrix in the graph
    quantization: dict[str, Any] | None = None
    parity: dict[str, Any] | None = None
    quality: dict[str, Any] | None = None
    created_by: str = ""
    files: dict[str, FileRecord] = field(default_factory=dict)

    @property
    def context_length(self) -> int:
        """The most tokens that a sequence may have, prompt included."""
        return int(self.architecture["context_length"])

    def to_json(self) -> str:
        """The text of `bundle.json`."""
        return json.dumps({"format": FORMAT, "version": FORMAT_VERSION} | asdict(self), indent=1, ensure_ascii=False)


def read_manifest(directory: Path) -> Manifest:
    """Read `directory/bundle.json`.

    Raises:
        BundleError: it is not JSON, not a manifest of version 1, lacks a field, or names a file outside.
    """
    path = directory / MANIFEST_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{path} is not JSON ({error}): the bundle is damaged; export it again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BundleError(f'{path} is not a bundle manifest: expected "format": "{FORMAT}"')
    if data.get("version") != FORMAT_VERSION:
        raise BundleError(
            f"{path} has bundle version {data.get('version')!r}, this onnxgpt reads version {FORMAT_VERSION}: "
            "upgrade onnxgpt or export the model again"
        )
    try:
        manifest = _parse(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} lacks or misstates a field ({error!r}): export the model again") from error
    for name in (manifest.graph.file, *manifest.files):
        check_member_name(name, path)
    return manifest


def _parse(data: dict[str, Any]) -> Manifest:
    fields = {key: value for key, value in data.items() if key not in ("format", "version")}
    graph = dict(fields["graph"])
    graph["inputs"] = tuple(graph.get("inputs", ()))
    graph["outputs"] = tuple(graph.get("outputs", ()))
    fields["graph"] = GraphRecord(**graph)
    fields["matrices"] = tuple(fields.get("matrices", ()))
    fields["files"] = {
        name: FileRecord(size=int(record["size"]), sha256=str(record["sha256"]))
        for name, record in fields["files"].items()
    }
    manifest = Manifest(**fields)
    if manifest.context_length < 1:
        raise ValueError(f"context_length {manifest.context_length}")
    return manifest


def check_member_name(name: object, path: Path) -> None:
    """Refuse a file name that is absolute or climbs out of the bundle."""
    text = str(name)
    pure = PurePosixPath(text)
    if not text or pure.is_absolute() or "\\" in text or ":" in text or any(p in ("..", "") for p in text.split("/")):
        raise BundleError(
            f"{path} names the file {text!r}: expected a path inside the bundle; do not trust this bundle"
        )
