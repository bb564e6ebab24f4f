"""Builds of ONNX Runtime that are missing, over each other, damaged or hidden: each planted, and found."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

import onnxgpt
from onnxgpt.runtime.devices import devices_of

from .conftest import Environment, read_findings

VERSION = version("onnxruntime")
BOTH = {"onnxruntime/__init__.py": 7, "onnxruntime/capi/libonnxruntime_providers_cuda.so": 400_000_000}


def test_one_build_is_as_it_should_be(environment: Environment) -> None:
    environment.add("onnxruntime*")
    finding = environment.findings()["onnxruntime"]

    assert finding["state"] == "ok"
    assert finding["found"] == f"onnxruntime {VERSION}, the only build installed"
    assert finding["facts"]["distributions"][0]["files"] > 100
    assert finding["facts"]["distributions"][0]["changed_files"] == 0


def test_two_builds_over_each_other_are_a_fault_though_importing_works(environment: Environment) -> None:
    environment.add("onnxruntime*")
    environment.plant_distribution("onnxruntime-gpu", VERSION, BOTH)
    findings = environment.findings()
    finding = findings["onnxruntime"]

    assert findings["import"]["state"] == "ok"
    assert findings["self-test on cpu: parity"]["state"] == "ok"
    assert finding["state"] == "fault"
    listed, rest = finding["found"].split(" are installed over each other in ")
    assert sorted(listed.split(" and ")) == [f"onnxruntime {VERSION}", f"onnxruntime-gpu {VERSION}"]
    assert rest.startswith(str(environment.directory / "onnxruntime"))
    assert f"most files there are those of onnxruntime {VERSION}" in finding["found"]
    assert "2 of 2 files of onnxruntime-gpu" in finding["found"]
    removing, installing = finding["commands"]
    assert sorted(removing.split()[3:]) == ["onnxruntime", "onnxruntime-gpu"]
    assert removing.startswith("pip uninstall -y ")
    assert installing in ('pip install "onnxgpt[cpu]"', 'pip install "onnxgpt[cuda]"')


def test_no_build_at_all_is_a_fault_and_the_rest_is_still_told(environment: Environment) -> None:
    done = environment.run("-m", "onnxgpt", "doctor")
    findings = environment.findings()

    assert (done.returncode, done.stderr) == (1, "")
    assert "FAULT  onnxruntime: no ONNX Runtime is installed" in done.stdout
    assert done.stdout.splitlines()[-1] == "2 faults"
    assert findings["onnxruntime"]["commands"] in (['pip install "onnxgpt[cpu]"'], ['pip install "onnxgpt[cuda]"'])
    assert findings["import"]["state"] == "fault"
    assert (
        findings["import"]["found"]
        == "onnxruntime can't be imported (ModuleNotFoundError: No module named 'onnxruntime')"
    )
    assert findings["import"]["advice"] == "mend what is said of onnxruntime above"
    assert findings["embedded model"]["state"] == findings["cache folder"]["state"] == "ok"
    assert "self-test on cpu: parity" not in findings


def test_the_shell_that_a_removed_build_leaves_is_told_from_none(environment: Environment) -> None:
    """After `pip uninstall` of one of two, Python still imports the directory, as a package without anything."""
    (environment.directory / "onnxruntime" / "capi").mkdir(parents=True)
    (environment.directory / "onnxruntime" / "capi" / "left.so").write_bytes(b"")
    environment.plant_distribution("onnxruntime-gpu", "1.31.1", {"onnxruntime/__init__.py": 10})
    finding = environment.findings()["onnxruntime"]

    assert finding["state"] == "fault"
    assert "lacks its __init__.py, as after another build was removed" in finding["found"]
    assert finding["commands"][0] == "pip uninstall -y onnxruntime-gpu"
    assert finding["commands"][-1] == 'pip install "onnxgpt[cuda]"'
    assert environment.findings()["import"]["state"] == "fault"


def test_files_of_another_build_are_told(environment: Environment) -> None:
    """One distribution is left, but the directory holds what another one wrote over it."""
    environment.add("onnxruntime")
    environment.plant_distribution("onnxruntime-directml", "1.24.4", {"onnxruntime/__init__.py": 7})
    finding = environment.findings()["onnxruntime"]

    assert finding["state"] == "fault"
    assert f"onnxruntime-directml 1.24.4: the files in {environment.directory / 'onnxruntime'}" in finding["found"]
    assert f"are those of onnxruntime {VERSION}" in finding["found"]
    assert finding["commands"][-1] == 'pip install "onnxgpt[directml]"'


def test_changed_files_of_a_single_build_are_counted(environment: Environment) -> None:
    environment.add("onnxruntime")
    init = environment.directory / "onnxruntime" / "__init__.py"
    files = {"onnxruntime/__init__.py": init.stat().st_size, "onnxruntime/capi/__init__.py": 1, "onnxruntime/no.py": 3}
    environment.plant_distribution("onnxruntime", VERSION, files)
    finding = environment.findings()["onnxruntime"]

    assert finding["state"] == "fault"
    assert "2 of its 3 files are gone or have another size than recorded" in finding["found"]


def test_a_build_further_down_the_path_is_noted(environment: Environment, tmp_path: Path) -> None:
    environment.add("onnxruntime*")
    other = Environment(tmp_path / "elsewhere")
    other.plant_distribution("onnxruntime-gpu", "1.20.0", BOTH)
    paths = os.pathsep.join([str(environment.directory), str(other.directory)])
    findings = environment.findings(PYTHONPATH=paths)

    assert findings["onnxruntime"]["state"] == "ok"
    assert findings["onnxruntime elsewhere"]["state"] == "note"
    assert f"onnxruntime-gpu 1.20.0 in {other.directory} not used" in findings["onnxruntime elsewhere"]["found"]


def test_a_package_that_pip_knows_nothing_of_is_noted(environment: Environment) -> None:
    environment.add("onnxruntime")
    finding = environment.findings()["onnxruntime"]

    assert finding["state"] == "note"
    assert f"onnxruntime {VERSION} in " in finding["found"]


def test_a_build_that_can_t_be_imported_for_reasons_of_its_own(environment: Environment) -> None:
    (environment.directory / "onnxruntime").mkdir()
    code = "raise ImportError('numpy.core.multiarray failed to import')\n"
    (environment.directory / "onnxruntime" / "__init__.py").write_text(code)
    environment.plant_distribution("onnxruntime", "1.31.1", {"onnxruntime/__init__.py": len(code)})
    findings = environment.findings()

    assert findings["onnxruntime"]["state"] == "ok"
    assert findings["import"]["state"] == "fault"
    assert "(ImportError: numpy.core.multiarray failed to import)" in findings["import"]["found"]
    assert findings["import"]["commands"] == ['pip install --force-reinstall "onnxgpt[cpu]"']


def findings_of_peer(name: str, directory: Path) -> dict[str, dict]:
    """What the command finds in an environment of ONNXGPT_PEERS, where the wheels were really installed, by pip."""
    python = Path(os.environ.get("ONNXGPT_PEERS") or "") / name / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"ONNXGPT_PEERS names no directory with the environment `{name}`")
    (directory / "onnxgpt").symlink_to(Path(onnxgpt.__file__).parent)
    done = subprocess.run(
        [python, "-m", "onnxgpt", "doctor", "--json"],
        env=os.environ | {"PYTHONPATH": str(directory)},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.stderr == ""
    return read_findings(done)


@pytest.mark.slow
def test_the_cpu_build_over_the_cuda_build(tmp_path: Path) -> None:
    finding = findings_of_peer("clash", tmp_path)["onnxruntime"]

    assert finding["state"] == "fault"
    assert "are installed over each other" in finding["found"]
    assert sorted(finding["commands"][0].split()[3:]) == ["onnxruntime", "onnxruntime-gpu"]


@pytest.mark.slow
def test_the_cuda_build_without_a_device(tmp_path: Path) -> None:
    findings = findings_of_peer("gpu", tmp_path)
    if devices_of("cuda"):
        pytest.skip("a CUDA device is here")

    assert findings["onnxruntime"]["state"] == "ok"
    assert "built for CUDA 13" in findings["onnxruntime"]["found"]
    assert findings["cuda"]["state"] == "note"
    assert "the CUDA build is installed, but there is no NVIDIA driver here" in findings["cuda"]["found"]
    assert findings["self-test on cpu: parity"]["state"] == "ok"
