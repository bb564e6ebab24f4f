"""`onnxgpt doctor` as a whole: a healthy machine, its data, telemetry, versions, no network, no noise."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import pytest

from onnxgpt.doctor import checkup as checkup_module
from onnxgpt.doctor import versions
from onnxgpt.doctor.checkup import checkup
from onnxgpt.doctor.findings import Finding, report

from .conftest import Environment, read_findings

NAMES = [
    "versions",
    "onnxruntime",
    "telemetry",
    "cuda",
    "processor",
    "embedded model",
    "cache folder",
    "import",
    "int8 products",
    "self-test on cpu: parity",
    "self-test on cpu: text",
    "self-test on cpu: speed",
]


@pytest.fixture
def healthy(environment: Environment) -> Environment:
    """One build of ONNX Runtime, and nothing else that could be in the way."""
    environment.add("onnxruntime*")
    return environment


def test_a_healthy_machine_has_no_faults(healthy: Environment) -> None:
    done = healthy.run("-m", "onnxgpt", "doctor")
    lines = done.stdout.splitlines()

    assert (done.returncode, done.stderr) == (0, "")
    assert not any(line.startswith("FAULT") for line in lines)
    assert lines[-1].startswith("no faults")
    told = [line[7:] for line in lines[:-1] if not line.startswith(" ")]
    assert [name for name in NAMES if not any(line.startswith(f"{name}: ") for line in told)] == []


def test_the_data_has_a_stable_form(healthy: Environment) -> None:
    done = healthy.run("-m", "onnxgpt", "doctor", "--json")
    data = json.loads(done.stdout)

    assert (data["format"], data["version"], data["healthy"], data["faults"]) == ("onnxgpt-doctor", 1, True, 0)
    assert set(data) == {"format", "version", "onnxgpt", "healthy", "faults", "notes", "findings"}
    assert all(list(finding) == [field.name for field in fields(Finding)] for finding in data["findings"])
    assert [finding["name"] for finding in data["findings"] if finding["name"] in NAMES] == NAMES
    facts = {finding["name"]: finding["facts"] for finding in data["findings"]}
    assert facts["versions"]["packages"]["numpy"] == version("numpy")
    assert facts["import"]["providers"][-1] == "CPUExecutionProvider"
    assert facts["processor"]["threads"] >= 1
    assert facts["self-test on cpu: speed"]["decode_tokens_per_second"] > 0
    assert 0 < facts["self-test on cpu: parity"]["worst"] < facts["self-test on cpu: parity"]["tolerance"]


def test_a_report_counts(tmp_path: Path) -> None:
    data = report([Finding("a", "ok", "x"), Finding("b", "note", "y"), Finding("c", "fault", "z")])

    assert (data["healthy"], data["faults"], data["notes"]) == (False, 1, 1)


def test_a_part_that_fails_itself_does_not_hide_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Finding]:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(checkup_module, "cache_findings", fail)
    found = {finding.name: finding for finding in checkup(selftest=False)}

    assert found["models"].state == "fault"
    assert "ZeroDivisionError: of all things" in found["models"].found
    assert found["import"].state == "ok"


@pytest.mark.parametrize(("switch", "state"), [(None, "note"), ("0", "note"), ("1", "ok")], ids=["unset", "on", "off"])
def test_telemetry_that_was_on_before_us_is_noted(switch: str | None, state: str) -> None:
    program = (
        "import os, onnxruntime\n"
        "from onnxgpt.doctor.checkup import checkup\n"
        "[finding] = [finding for finding in checkup(selftest=False) if finding.name == 'telemetry']\n"
        "print(finding.state)"
    )
    environment = {"ORT_DISABLE_TELEMETRY": switch} if switch is not None else {}

    outside = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=outside | environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == state


def test_packages_that_are_missing_or_old_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["numpy>=1.26", "click>=99.5", 'onnxruntime>=1.23; extra == "cpu"', 'onnxruntime>=1.0; extra == "x"']
    monkeypatch.setattr(versions, "requires", lambda name: asked)
    monkeypatch.setattr(versions, "CORE", ("numpy", "onnxgpt-nowhere"))
    found = versions.versions_findings()

    assert [(finding.name, finding.state) for finding in found] == [
        ("versions", "ok"),
        ("onnxgpt-nowhere", "fault"),
        ("click", "fault"),
    ]
    assert found[2].commands == ('pip install --upgrade "click>=99.5"',)
    assert f"click {version('click')} is older than 99.5" in found[2].found


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode != 0,
    reason="no network namespaces here",
)
def test_it_needs_no_network(tmp_path: Path) -> None:
    command = ["unshare", "-rn", sys.executable, "-m", "onnxgpt", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, cwd=tmp_path)

    assert "self-test on cpu: speed" in read_findings(done)


@pytest.mark.skipif(
    shutil.which("strace") is None
    or subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode != 0,
    reason="no strace that may trace here",
)
def test_it_opens_no_socket(tmp_path: Path) -> None:
    def calls(*arguments: str) -> list[str]:
        trace = tmp_path / "trace"
        command = ["strace", "-f", "-e", "trace=network", "-o", trace, sys.executable, *arguments]
        subprocess.run(command, capture_output=True, timeout=300)
        lines = trace.read_text().splitlines()
        assert "exited with" in lines[-1]
        return [line for line in lines if "(" in line]

    assert "socket(" in calls("-c", "import socket; socket.socket().close()")[0]  # strace would see one
    assert calls("-m", "onnxgpt", "doctor") == []


def test_the_modules_that_look_import_nothing_that_may_be_broken() -> None:
    """What says that numpy or ONNX Runtime is missing must not need them."""
    program = (
        "import sys, onnxgpt.doctor.checkup, onnxgpt.cli_doctor\n"
        "print(sorted({'numpy', 'onnxruntime', 'tokenizers', 'torch', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
