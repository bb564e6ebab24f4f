"""Virtual environments for the peers: made when missing, reused when they have what is asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE_PARENT = Path(__file__).resolve().parents[1]

_FOUND = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""
_CALL = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
getattr(importlib.import_module(sys.argv[2]), sys.argv[3])(*sys.argv[4:])
"""


class UnavailableError(Exception):
    """A peer can't be installed or its model not be converted; the message says why, for the report."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment."""

    directory: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.directory / "bin" / "python"

    def versions(self, names: Sequence[str]) -> dict[str, str | None]:
        """What is installed of some distributions."""
        done = subprocess.run([self.python, "-c", _FOUND, *names], capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))

    def ensure(
        self, requirements: Sequence[str], *, from_source: bool = False, variables: Mapping[str, str] | None = None
    ) -> None:
        """Make the environment if there is none, and install what it lacks.

        Args:
            requirements: as for pip. A version is asked for only of what is not installed yet.
            from_source: build the first one for this machine instead of taking a wheel.
            variables: for the build.

        Raises:
            UnavailableError: pip could not install it.
        """
        if not self.python.exists():
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([sys.executable, "-m", "venv", str(self.directory)], check=True)
        names = {requirement: distribution_of(requirement) for requirement in requirements}
        found = self.versions(list(names.values()))
        missing = [requirement for requirement, name in names.items() if found[name] is None]
        if missing:
            # pip keeps what it built, perhaps with other settings or for another processor: not from there.
            source = ["--no-cache-dir", "--no-binary", distribution_of(missing[0])] if from_source else []
            self.run(["-m", "pip", "install", "--quiet", *source, *missing], variables)

    def run(self, arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        """Run the interpreter quietly.

        Raises:
            UnavailableError: it failed; the message is the last line that it wrote, or its status when it wrote none.
        """
        done = subprocess.run(
            [self.python, *arguments], capture_output=True, text=True, errors="replace",
            env=clean_variables() | dict(variables or {}),
        )  # fmt: skip
        if done.returncode != 0:
            output = done.stderr.strip() or done.stdout.strip()
            raise UnavailableError(last_complaint(output) if output else f"ended with status {done.returncode}")

    def call(self, function: Callable[..., Any], *arguments: str) -> None:
        """Call a function of this package, whose module imports nothing that the environment lacks.

        Raises:
            UnavailableError: it failed.
        """
        self.run(["-c", _CALL, str(PACKAGE_PARENT), function.__module__, function.__qualname__, *arguments])


def clean_variables() -> dict[str, str]:
    """This process's variables without those that would let its packages into another environment.

    Everything a peer needs is on this machine: those that would ask a model hub or send telemetry are told not to.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}


def distribution_of(requirement: str) -> str:
    """`optimum-onnx[onnxruntime]==0.1` → `optimum-onnx`."""
    return re.split(r"[\[=<>~! ]", requirement)[0]


def last_complaint(text: str) -> str:
    """The last line of an error output that says something, without addresses and directories of this machine."""
    lines = [
        line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("WARNING", "[notice]"))
    ]
    line = lines[-1] if lines else "no message"
    return re.sub(r"(\w+://\S+|/[\w.\-]+(/[\w.\-]+)+)", "…", line)[:200]
