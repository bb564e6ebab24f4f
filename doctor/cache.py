"""The cache folder: whether it can be written, what lies in it, and whether that is what was put there."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..models.catalog import CATALOG, CatalogEntry, cache_directory, find
from ..runtime.bundle import GRAPH_FILE, WEIGHTS_FILE, Bundle, file_sha256
from ..runtime.errors import BundleError
from ..runtime.manifest import MANIFEST_NAME
from ..runtime.memory import format_bytes
from .findings import Finding

FOLDER, CONTENT, LEFTOVERS, EMBEDDED = "cache folder", "cached models", "leftovers", "embedded model"
_OF_A_BUNDLE = {MANIFEST_NAME, GRAPH_FILE, WEIGHTS_FILE}
_HASHING_SECONDS = 6.0  # after so long, sizes alone are compared: a person waits
_RIGHTS = "make it yours, or set ONNXGPT_CACHE to a directory that is"
_DISK = "make room there, or set ONNXGPT_CACHE to another disk"


def cache_findings() -> list[Finding]:
    """The folder, each model in it, what killed pulls left behind, and the model in the package."""
    folder = cache_directory()
    findings = [_embedded_finding(), _folder_finding(folder)]
    if folder.is_dir():
        findings += _content_findings(folder)
        findings += _leftover_findings(folder)
    return findings


def _embedded_finding() -> Finding:
    reinstalling = ("pip install --force-reinstall --no-deps onnxgpt",)
    name = next(entry.name for entry in CATALOG.values() if entry.embedded)
    directory = find(name)
    if directory is None:
        return Finding(EMBEDDED, "fault", f"{name} is not in the package", "install onnxgpt again", reinstalling)
    facts = {"directory": str(directory)}
    try:
        bundle = Bundle.open(directory)
        bundle.verify_hashes()
    except (BundleError, OSError) as error:
        return Finding(EMBEDDED, "fault", str(error), "install onnxgpt again", reinstalling, facts)
    count = len(bundle.manifest.files)
    return Finding(EMBEDDED, "ok", f"{bundle.manifest.name}: all {count} files as they should be", facts=facts)


def _folder_finding(folder: Path) -> Finding:
    """Whether models can be put there: tried, since rights tell only part of it."""
    existing = next((place for place in (folder, *folder.parents) if _exists(place)), Path(folder.anchor))
    facts: dict[str, object] = {"directory": str(folder), "exists": existing == folder, "writable": False}
    if not existing.is_dir():
        advice = "remove that file, or set ONNXGPT_CACHE to another place"
        return Finding(FOLDER, "fault", f"{existing} is no directory", advice, facts=facts)
    try:
        with tempfile.TemporaryDirectory(prefix=".onnxgpt-doctor-", dir=existing):
            facts["writable"] = True
        free = shutil.disk_usage(existing).free
    except OSError as error:
        what = "can't be written" if existing == folder else f"can't be made: {existing} can't be written"
        found = f"{folder} {what} ({error.strerror or error}), by {_user()}: no model can be fetched"
        return Finding(FOLDER, "fault", found, _RIGHTS, _owning(folder, existing == folder), facts)
    facts["free_bytes"] = free
    if unread := [path for path in _paths(folder) if not os.access(path, _needed_rights(path))]:
        rights = "entered and written" if unread[0].is_dir() else "read"
        found = f"{unread[0]}{_and_others(unread)} can't be {rights} by {_user()}"
        return Finding(FOLDER, "fault", found, _RIGHTS, _owning(folder, True), facts)
    state = "" if existing == folder else ", not there yet"
    needed = max(3 * entry.size for entry in CATALOG.values())
    shown = f"{folder}{state}: can be written, {format_bytes(free)} free"
    if free < needed:
        found = f"{shown}, and the largest model needs {format_bytes(needed)} to be fetched"
        return Finding(FOLDER, "note", found, _DISK, facts=facts)
    return Finding(FOLDER, "ok", shown, facts=facts)


def _content_findings(folder: Path) -> list[Finding]:
    """Each model that is there; one line for all that are sound."""
    deadline = time.monotonic() + _HASHING_SECONDS
    sound: list[str] = []
    unread: list[str] = []
    findings: list[Finding] = []
    for directory in _model_directories(folder):
        hashing = time.monotonic() < deadline
        try:
            broken = _checkpoint_fault(directory, hashing) or _bundle_fault(directory, hashing)
        except OSError as error:
            found = f"{directory} can't be read ({error.strerror or error})"
            findings.append(Finding(CONTENT, "fault", found, _RIGHTS, facts={"directory": str(directory)}))
            continue
        if broken:
            advice = "remove it and fetch or make it again"
            facts = {"directory": str(directory)}
            findings.append(Finding(CONTENT, "fault", broken, advice, _mending(directory), facts))
        else:
            (sound if hashing else unread).append(directory.name)
    if unread:
        found = f"{', '.join(unread)}: sizes as they should be, contents not read for want of time"
        findings.append(Finding(CONTENT, "note", found, "check a bundle whole with `onnxgpt verify DIR`"))
    if sound or not findings:
        found = f"{', '.join(sound)}: as they should be" if sound else "none"
        findings.insert(0, Finding(CONTENT, "ok", found, facts={"sound": sound}))
    return findings


def _model_directories(folder: Path) -> Iterator[Path]:
    """Directories that hold a checkpoint of the catalogue or a bundle, whole or not."""
    for directory, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.endswith(".partial"))
        path = Path(directory)
        entry = _entry_of(path)
        if (entry is not None and entry.file in files) or _OF_A_BUNDLE & set(files):
            names.clear()
            yield path


def _checkpoint_fault(directory: Path, hashing: bool) -> str:
    """What is wrong with a checkpoint of the catalogue; empty where nothing, or where it is none."""
    entry = _entry_of(directory)
    if entry is None or not entry.file:
        return ""
    path = directory / entry.file
    if not path.is_file():
        return ""
    if path.stat().st_size != entry.size:
        return (
            f"{path} has {path.stat().st_size:,} bytes, the catalogue says {entry.size:,}: it is truncated or changed"
        )
    if hashing and file_sha256(path) != entry.sha256:
        return f"{path} has another sha256 than the catalogue says: it was changed"
    return ""


def _bundle_fault(directory: Path, hashing: bool) -> str:
    """What is wrong with a bundle; empty where nothing, or where it is none."""
    if not _OF_A_BUNDLE & {path.name for path in directory.iterdir()}:
        return ""
    try:
        bundle = Bundle.open(directory)
        if hashing:
            bundle.verify_hashes()
    except BundleError as error:
        return str(error)
    return ""


def _entry_of(directory: Path) -> CatalogEntry | None:
    return CATALOG.get(directory.name) if directory.parent == cache_directory() / "models" else None


def _mending(directory: Path) -> tuple[str, ...]:
    making = "onnxgpt export SOURCE --out DIR" if _entry_of(directory) is None else f"onnxgpt pull {directory.name}"
    return _removing(directory), making


def _leftover_findings(folder: Path) -> list[Finding]:
    leftovers = sorted(path for path in _paths(folder) if path.name.endswith(".partial"))
    if not leftovers:
        return []
    size = format_bytes(sum(_size(path) for top in leftovers for path in (top, *_paths(top))))
    found = f"{leftovers[0]}{_and_others(leftovers)}, {size}, of pulls that were ended or are under way"
    advice = "remove them where no pull is under way"
    facts = {"paths": [str(path) for path in leftovers]}
    return [Finding(LEFTOVERS, "note", found, advice, tuple(_removing(path) for path in leftovers), facts)]


def _paths(folder: Path) -> Iterator[Path]:
    """All that lies in a folder, at any depth; what can't be listed is passed over."""
    for directory, names, files in os.walk(folder):
        yield from (Path(directory, name) for name in (*names, *files))


def _needed_rights(path: Path) -> int:
    return os.R_OK | os.W_OK | os.X_OK if path.is_dir() else os.R_OK


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # in a directory that may not be entered
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _and_others(paths: list[Path]) -> str:
    return "" if len(paths) == 1 else f" and {len(paths) - 1} more"


def _user() -> str:
    return f"user {os.getuid()}" if hasattr(os, "getuid") else "this user"


def _owning(folder: Path, exists: bool) -> tuple[str, ...]:
    """Commands that make the cache writable: its owner is changed only where it is the usual place."""
    if os.name == "nt":
        return (f'setx ONNXGPT_CACHE "{Path.home() / "onnxgpt-cache"}"',)
    if os.environ.get("ONNXGPT_CACHE"):
        return ('export ONNXGPT_CACHE="$HOME/.cache/onnxgpt"',)
    making = () if exists else (f'sudo mkdir -p "{folder}"',)
    return (*making, f'sudo chown -R "$(id -u):$(id -g)" "{folder}"')


def _removing(path: Path) -> str:
    return f'rmdir /s /q "{path}"' if os.name == "nt" else f'rm -r "{path}"'
