"""Builds of ONNX Runtime: which distributions own the package `onnxruntime`, and whether its files are one build's.

Every build (onnxruntime, onnxruntime-gpu, onnxruntime-directml, …) installs into the same directory, and pip takes
them for strangers: the second overwrites the files of the first, and uninstalling either takes the other's files along.
Nothing is imported here, so that it can be told whatever state they are in.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "onnxruntime"
_BUILD_FILE = Path("capi") / "build_and_package_info.py"  # written by ONNX Runtime's own setup.py


@dataclass(frozen=True)
class Installed:
    """A distribution that says it owns the package `onnxruntime`."""

    name: str
    version: str
    directory: Path  # of site-packages
    files: tuple[tuple[Path, int | None], ...]  # of the package, with their recorded sizes

    @property
    def requirement(self) -> str:
        """As pip writes it."""
        return f"{self.name} {self.version}"

    @cached_property
    def changed_files(self) -> int:
        """How many of its files are gone or have another size than recorded: what another build did to it."""
        return sum(_size(path) != size for path, size in self.files if size is not None)


@dataclass(frozen=True)
class Build:
    """What the files themselves say: the build whose files lie in the package's directory."""

    directory: Path
    name: str | None  # None: older builds did not say
    version: str | None
    cuda_version: str | None
    is_whole: bool  # False: no `__init__.py`: Python would import an empty shell of it


def installed_builds(paths: Iterable[str] | None = None) -> list[Installed]:
    """Every distribution that owns the package, in the order in which Python would find them.

    Args:
        paths: directories to look in; None: those of this process.
    """
    found = distributions() if paths is None else distributions(path=list(paths))
    builds: dict[tuple[str, Path], Installed] = {}
    for distribution in found:
        if build := _read(distribution):
            builds.setdefault((build.name, build.directory), build)
    return list(builds.values())


def build_on_disk() -> Build | None:
    """The package as Python would import it; None where there is none."""
    try:
        spec = find_spec(PACKAGE)
    except (ImportError, ValueError):  # a package that was imported and is broken has no spec
        spec = None
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        return None
    directory = Path(places[0])
    said = _constants(directory / _BUILD_FILE)
    return Build(
        directory,
        said.get("package_name"),
        said.get("__version__"),
        said.get("cuda_version"),
        is_whole=(directory / "__init__.py").is_file(),
    )


def _read(distribution: Distribution) -> Installed | None:
    try:
        record = distribution.read_text("RECORD") or ""
        owns = f"\n{PACKAGE}/__init__.py," in f"\n{record}"
        if not owns and PACKAGE not in (distribution.read_text("top_level.txt") or "").split():
            return None
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
    except (OSError, UnicodeDecodeError, TypeError, KeyError):  # some package's metadata, half removed
        return None
    directory = Path(str(distribution.locate_file(""))).absolute()
    return Installed(name, distribution.version, directory, tuple(_files(record, directory)))


def _files(record: str, directory: Path) -> Iterator[tuple[Path, int | None]]:
    """The package's own files of a RECORD, whose rows are path, hash and size."""
    for row in csv.reader(record.splitlines()):
        if row and row[0].startswith(f"{PACKAGE}/") and not row[0].endswith(".pyc"):
            yield directory / row[0], int(row[2]) if len(row) > 2 and row[2].isdigit() else None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _constants(path: Path) -> dict[str, str]:
    """The names that a file gives texts to; it is read, not run."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return {}
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
