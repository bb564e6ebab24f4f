"""The command that tells the state of a machine: doctor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .cli_options import json_option
from .terminal import FAILED, HouseCommand, print_json, progress_on_stderr

if TYPE_CHECKING:
    from .doctor.findings import Finding

_MARKS = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}
_INDENT = " " * 7


@click.command(cls=HouseCommand)
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Tell whether everything here is as it should be, and what to do.

    Looks at versions, installed builds of ONNX Runtime and what they do to
    one another, devices and drivers, the processor, threads, telemetry, the
    cache folder and the models in it; then runs the embedded model against
    what PyTorch computes, and times it. Nothing is changed or sent.

    Exit code 0 where nothing is in the way, 1 where something is.

    \b
    onnxgpt doctor
    onnxgpt doctor --json
    """
    from .doctor.checkup import checkup
    from .doctor.findings import report

    findings: list[Finding] = []
    with progress_on_stderr() as progress:
        for finding in checkup(progress=None if progress is None else lambda what: progress(what, None)):
            findings.append(finding)
            if not as_json and progress is None:
                _print(finding)
    if as_json:
        print_json(report(findings))
    else:
        if progress is not None:  # a bar and lines would write into one another
            for finding in findings:
                _print(finding)
        click.echo(_verdict(findings))
    if any(finding.state == "fault" for finding in findings):
        context.exit(FAILED)


def _print(finding: Finding) -> None:
    click.echo(f"{_MARKS[finding.state]}  {finding.name}: {finding.found}")
    if finding.advice:
        click.echo(f"{_INDENT}to do: {finding.advice}{':' if finding.commands else ''}")
    for command in finding.commands:
        click.echo(f"{_INDENT}  {command}")


def _verdict(findings: Sequence[Finding]) -> str:
    faults, notes = (sum(finding.state == state for finding in findings) for state in ("fault", "note"))
    noted = "" if not notes else f", {notes} note{'' if notes == 1 else 's'}"
    if not faults:
        return f"no faults{noted}"
    return f"{faults} fault{'' if faults == 1 else 's'}{noted}"
