"""Versions of what onnxgpt is made of and runs on, and whether they are recent enough."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from .._version import __version__
from .findings import Finding

NAME = "versions"
CORE = ("numpy", "tokenizers", "minijinja", "click", "rich")
OPTIONAL = ("onnx", "onnx-ir", "torch", "transformers", "safetensors", "gguf", "huggingface-hub", "matplotlib")
_LEAST_PYTHON = (3, 10)
_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[[^]]*])?\s*>=\s*([\d.]+)")


def versions_findings() -> list[Finding]:
    """The versions, and each package that is missing or too old."""
    found = {name: _installed(name) for name in (*CORE, *OPTIONAL)}
    facts = {
        "onnxgpt": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "packages": {name: installed for name, installed in found.items() if installed},
    }
    shown = [f"{name} {found[name]}" for name in (*CORE, *OPTIONAL) if found[name]]
    system = f"{platform.system()} {platform.machine()}"
    line = f"onnxgpt {__version__}, Python {platform.python_version()} on {system}, {', '.join(shown)}"
    return [Finding(NAME, "ok", line, facts=facts), *_faults(found)]


def _faults(found: dict[str, str | None]) -> Iterator[Finding]:
    for name in CORE:
        if found[name] is None:
            command = f"pip install {name}"
            yield Finding(name, "fault", f"{name} is not installed, and onnxgpt needs it", "install it", (command,))
    for name, least in _least_versions():
        installed = _installed(name)
        if installed and _numbers(installed) < _numbers(least):
            finding = f"{name} {installed} is older than {least}, which this onnxgpt asks for"
            yield Finding(name, "fault", finding, "upgrade it", (f'pip install --upgrade "{name}>={least}"',))
    if sys.version_info < _LEAST_PYTHON:
        yield Finding("python", "fault", f"Python {platform.python_version()}, expected 3.10 or later", "upgrade it")


def _least_versions() -> Iterator[tuple[str, str]]:
    """What the installed onnxgpt says it asks for, extras included; nothing where it runs from its sources."""
    try:
        asked = requires("onnxgpt") or []
    except PackageNotFoundError:
        return
    least: dict[str, str] = {}
    for requirement in asked:
        if match := _REQUIREMENT.match(requirement):
            name, number = match.groups()
            if name not in least or _numbers(number) < _numbers(least[name]):  # extras may differ: the mildest
                least[name] = number
    yield from least.items()


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version, without zeros at the end: enough to tell older from newer.

    >>> _numbers("1.23.0rc1") == _numbers("1.23")
    True
    """
    match = re.match(r"\d+(\.\d+)*", text)
    numbers = [int(part) for part in match.group().split(".")] if match else [0]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
