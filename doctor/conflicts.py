"""What is wrong with the builds of ONNX Runtime that are installed, and the commands that mend it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..runtime.devices import devices_of
from ..runtime.providers import PROVIDERS
from .builds import PACKAGE, Build, Installed
from .findings import Finding

NAME = "onnxruntime"


def build_findings(builds: Sequence[Installed], disk: Build | None) -> list[Finding]:
    """Whether one build of ONNX Runtime is installed, and is whole.

    Args:
        builds: the distributions that own the package, in the order in which Python finds them.
        disk: the package that Python would import.
    """
    if disk is None:
        return [_missing(builds)]
    here = [build for build in builds if _same(build.directory, disk.directory.parent)]
    hidden = [build for build in builds if build not in here]
    findings = [_over_each_other(here, disk) if len(here) > 1 else _single(here, disk)]
    if hidden:
        findings.append(_hidden(hidden, disk))
    return findings


def wanted_extra(names: Sequence[str] = ()) -> str:
    """The extra that fits this machine, of builds that were installed or, where none was, of all.

    The CPU build comes along with many packages, so another one was asked for; but without a device it is of no use.
    """
    for provider in PROVIDERS.values():
        if (not names or provider.package in names) and devices_of(provider.name):
            return provider.extra
    return "cpu"


def _missing(builds: Sequence[Installed]) -> Finding:
    names = tuple(build.name for build in builds)
    installing = _installing(wanted_extra(names))
    if not builds:
        found = "no ONNX Runtime is installed, and onnxgpt runs nothing without one"
        return Finding(NAME, "fault", found, "install one build of it", (installing,), _facts((), None))
    found = f"{_listed(builds)} is installed, but its files are gone"
    return Finding(NAME, "fault", found, "install it again", (_removing(names), installing), _facts(builds, None))


def _over_each_other(builds: Sequence[Installed], disk: Build) -> Finding:
    names = tuple(build.name for build in builds)
    changed = [f"{build.changed_files} of {len(build.files)} files of {build.name}" for build in builds]
    damaged = [text for build, text in zip(builds, changed, strict=True) if build.changed_files]
    owner = f"; most files there are those of {disk.name} {disk.version}" if disk.name else ""
    lost = f"; gone or overwritten are {' and '.join(damaged)}" if damaged else ""
    extra = wanted_extra(names)
    return Finding(
        NAME,
        "fault",
        f"{_listed(builds)} are installed over each other in {disk.directory}{owner}{lost}",
        f"remove all of them and install one; this machine wants [{extra}]",
        (_removing(names), _installing(extra)),
        _facts(builds, disk),
    )


def _single(builds: Sequence[Installed], disk: Build) -> Finding:
    """One distribution, or a package that pip knows nothing of."""
    facts = _facts(builds, disk)
    if not builds:
        if disk.is_whole:
            said = " ".join(filter(None, (disk.name, disk.version))) or "of unknown version"
            return Finding(NAME, "note", f"{said} in {disk.directory}, which no package manager put there", facts=facts)
        advice = "remove that directory and install one build"
        commands = (_removing_directory(disk.directory), _installing(wanted_extra()))
        return Finding(NAME, "fault", f"{disk.directory} holds remains of a removed build", advice, commands, facts)
    [build] = builds
    reason = _damage(build, disk)
    if reason:
        mending = (_removing((build.name,)), _removing_directory(disk.directory), _installing(_own_extra(build)))
        return Finding(NAME, "fault", f"{build.requirement}: {reason}", "install it anew", mending, facts)
    cuda = f", built for CUDA {disk.cuda_version}" if disk.cuda_version else ""
    return Finding(NAME, "ok", f"{build.requirement}{cuda}, the only build installed", facts=facts)


def _damage(build: Installed, disk: Build) -> str:
    """What another build, installed or removed later, did to this one; empty where nothing."""
    if not disk.is_whole:
        return f"{disk.directory} lacks its __init__.py, as after another build was removed"
    if disk.name and disk.version and (disk.name, disk.version) != (build.name, build.version.split("+")[0]):
        return f"the files in {disk.directory} are those of {disk.name} {disk.version}"
    if build.changed_files:
        return f"{build.changed_files} of its {len(build.files)} files are gone or have another size than recorded"
    return ""


def _hidden(hidden: Sequence[Installed], disk: Build) -> Finding:
    places = ", ".join(f"{build.requirement} in {build.directory}" for build in hidden)
    found = f"{places} not used: {disk.directory} comes first on Python's path"
    facts = {"hidden": [build.requirement for build in hidden], "directory": str(disk.directory)}
    return Finding("onnxruntime elsewhere", "note", found, "remove what you don't use", facts=facts)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one == other


def _own_extra(build: Installed) -> str:
    return next((provider.extra for provider in PROVIDERS.values() if provider.package == build.name), "cpu")


def _listed(builds: Sequence[Installed]) -> str:
    return " and ".join(build.requirement for build in builds)


def _removing(names: Sequence[str]) -> str:
    return f"pip uninstall -y {' '.join(dict.fromkeys(names))}"


def _removing_directory(directory: Path) -> str:
    return f"""python -c "import shutil; shutil.rmtree(r'{directory}', ignore_errors=True)\""""


def _installing(extra: str) -> str:
    return f'pip install "onnxgpt[{extra}]"'


def _facts(builds: Sequence[Installed], disk: Build | None) -> dict[str, object]:
    return {
        "package": PACKAGE,
        "distributions": [
            {
                "name": build.name,
                "version": build.version,
                "directory": str(build.directory),
                "files": len(build.files),
                "changed_files": build.changed_files,
            }
            for build in builds
        ],
        "directory": None if disk is None else str(disk.directory),
        "build": None if disk is None else disk.name,
        "version": None if disk is None else disk.version,
        "cuda_version": None if disk is None else disk.cuda_version,
    }
