"""Findings: what was looked at, how it stands, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .._version import __version__

State = Literal["ok", "note", "fault"]  # as it should be; worth knowing; in the way of working
FORMAT, FORMAT_VERSION = "onnxgpt-doctor", 1


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is; names do not change between versions.
        state: a fault is what makes the command's exit code 1.
        found: what was found, in a line.
        advice: what to do, in a line; empty where there is nothing to do.
        commands: what to type, in this order, to do it.
        facts: the same as figures, for programs.
    """

    name: str
    state: State
    found: str
    advice: str = ""
    commands: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def report(findings: Sequence[Finding]) -> dict[str, Any]:
    """All findings as plain data, as `--json` prints them."""
    states = [finding.state for finding in findings]
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "onnxgpt": __version__,
        "healthy": "fault" not in states,
        "faults": states.count("fault"),
        "notes": states.count("note"),
        "findings": [asdict(finding) for finding in findings],
    }
