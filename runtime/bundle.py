"""Bundle: the directory that holds one exported model, opened with checks and written all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .errors import BundleError, BundleNotFoundError, OutputExistsError
from .manifest import MANIFEST_NAME, FileRecord, Manifest, read_manifest

GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
TOKENIZER_FILE = "tokenizer.json"
# What `onnxgpt package` adds; a bundle that is made of a packaged one does not have them.
PACKAGED_FILES = frozenset({"generate.onnx", "text.onnx", "CONTRACT.md", "contract.json", "vectors.json"})
_HASH_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its directory and its manifest, with every file's presence and size checked."""

    directory: Path
    manifest: Manifest
    told: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # JSON files that it lacks (see runtime.foreign)

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Bundle:
        """Open the bundle in `directory` and check that its files are there with the sizes promised.

        Raises:
            BundleNotFoundError: no such directory, or no manifest in it.
            BundleError: another format or version, a missing or truncated file, a path that leaves the bundle.
        """
        root = Path(directory)
        if not root.is_dir():
            found = "is a file" if root.exists() else "does not exist"
            raise BundleNotFoundError(
                f"{root} {found}: expected the directory of a bundle; make one with `onnxgpt export SOURCE --out DIR`"
            )
        if not (root / MANIFEST_NAME).is_file():
            raise BundleNotFoundError(
                f"{root} has no {MANIFEST_NAME}: it is no bundle; make one with `onnxgpt export SOURCE --out DIR`, "
                "or of what another exporter wrote with `onnxgpt import DIR --out BUNDLE`"
            )
        bundle = cls(root, read_manifest(root))
        bundle._check_sizes()
        return bundle

    def _check_sizes(self) -> None:
        for needed in (self.manifest.graph.file, TOKENIZER_FILE):
            if needed not in self.manifest.files:
                raise BundleError(f"{self.directory} lists no {needed} in {MANIFEST_NAME}: export the model again")
        for name, record in self.manifest.files.items():
            path = self.directory / name
            if not path.is_file():
                raise BundleError(f"{self.directory} lacks {name}: copy the whole directory or export it again")
            if not path.resolve().is_relative_to(self.directory.resolve()):
                raise BundleError(f"{path} is a link that leaves the bundle: do not trust this bundle")
            size = path.stat().st_size
            if size != record.size:
                raise BundleError(
                    f"{path} has {size:,} bytes, the manifest says {record.size:,}: "
                    "the file is truncated or changed; copy or export it again"
                )

    def verify_hashes(self) -> None:
        """Read every file and compare its SHA-256 with the manifest's.

        Raises:
            BundleError: a file's content is not what was written, named.
        """
        for name, record in self.manifest.files.items():
            found = file_sha256(self.directory / name)
            if found != record.sha256:
                raise BundleError(
                    f"{self.directory / name} has sha256 {found[:12]}…, the manifest says {record.sha256[:12]}…: "
                    "the file was changed; copy or export it again"
                )

    @property
    def graph_path(self) -> Path:
        """The ONNX graph."""
        return self.directory / self.manifest.graph.file

    @property
    def tokenizer_path(self) -> Path:
        """The Hugging Face `tokenizer.json`."""
        return self.directory / TOKENIZER_FILE

    @property
    def weight_bytes(self) -> int:
        """Bytes of the graph and its weights."""
        files = self.manifest.files
        stem = self.manifest.graph.file
        return sum(record.size for name, record in files.items() if name == stem or name.startswith(_data_names(stem)))

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file of the bundle, `{}` when it has none of that name.

        Raises:
            BundleError: the file is no JSON object.
        """
        path = self.directory / name
        if name in self.told:
            return dict(self.told[name])
        if name not in self.manifest.files:
            return {}
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BundleError(f"{path} is not JSON ({error}): export the model again") from error
        if not isinstance(data, dict):
            raise BundleError(f"{path} holds {type(data).__name__}: expected a JSON object")
        return data


def _data_names(graph: str) -> tuple[str, ...]:
    """What the names of a graph's weights begin with: ours and onnxruntime-genai's, optimum's."""
    return f"{graph}.", f"{graph}_data"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def seal(directory: Path, manifest: Manifest) -> Manifest:
    """Record every file now in `directory` in the manifest and write `bundle.json`; return what was written."""
    files = {
        path.relative_to(directory).as_posix(): FileRecord(size=path.stat().st_size, sha256=file_sha256(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    }
    sealed = replace(manifest, files=files)
    path = directory / MANIFEST_NAME
    path.write_text(sealed.to_json() + "\n", encoding="utf-8")
    return sealed


@contextmanager
def staged_output(out: str | os.PathLike[str], *, force: bool = False, marker: str = MANIFEST_NAME) -> Iterator[Path]:
    """Give a scratch directory beside `out` that takes `out`'s name when the block ends well.

    When the block raises, the scratch directory goes and `out` is as it was. What a killed process left behind
    is removed by the next run for the same name. With `force` an existing output is replaced at the very end, if it
    holds the file `marker` or nothing.

    Raises:
        OutputExistsError: `out` exists and `force` is false.
    """
    target = Path(out).absolute()
    refuse_existing(target, force=force, marker=marker)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    staging = target.parent / f".{target.name}.{os.getpid()}.partial"
    staging.mkdir()
    try:
        yield staging
        _move_into_place(staging, target, force=force, marker=marker)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def refuse_existing(out: str | os.PathLike[str], *, force: bool, marker: str = MANIFEST_NAME) -> None:
    """Raise OutputExistsError when `out` exists and is not to be replaced, so that long work never starts."""
    target = Path(out)
    if (target.exists() or target.is_symlink()) and not force:
        raise OutputExistsError(f"{target} exists already: choose another --out, or replace it with --force")
    if force and target.exists() and not (target / marker).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise OutputExistsError(
            f"{target} exists and has no {marker}: --force replaces only what this command wrote; choose another --out"
        )


def _move_into_place(staging: Path, target: Path, *, force: bool, marker: str) -> None:
    mode = "r+b" if os.name == "nt" else "rb"  # Windows flushes only what was opened for writing
    for path in staging.rglob("*"):
        if path.is_file():
            with path.open(mode) as stream:
                os.fsync(stream.fileno())
    refuse_existing(target, force=force, marker=marker)
    old = target.parent / f".{target.name}.{os.getpid()}.old.partial"
    if target.exists():
        target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d+)(\.old)?\.partial")
    for path in list(target.parent.iterdir()):
        match = pattern.fullmatch(path.name)
        if not match or _is_running(int(match.group(1))):
            continue
        if match.group(2) and not target.exists():  # killed between the two renames: the old output is still whole
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False
    if os.name == "nt":  # signal 0 would end the process there; a leftover is then kept, never a live one removed
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
