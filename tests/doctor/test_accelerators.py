"""Devices against builds: a driver planted in C, builds as their files tell, and the libraries that they need."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from onnxgpt.doctor import accelerators
from onnxgpt.doctor.accelerators import accelerator_findings
from onnxgpt.doctor.builds import Build
from onnxgpt.doctor.conflicts import wanted_extra
from onnxgpt.doctor.findings import Finding
from onnxgpt.doctor.shared_libraries import missing_libraries, needed_libraries
from onnxgpt.runtime.devices import Device, Devices

from .conftest import Environment

A100 = Devices((Device(0, "NVIDIA A100", 80 << 30, "8.0"),), "", "13.1")
NO_DRIVER = Devices((), "there is no NVIDIA driver here")
CARD = Devices((Device(0, "Radeon", 16 << 30),))
CPU_BUILD = Build(Path("/site/onnxruntime"), "onnxruntime", "1.31.1", None, is_whole=True)
CUDA_BUILD = Build(Path("/site/onnxruntime"), "onnxruntime-gpu", "1.31.1", "13.0", is_whole=True)
DIRECTML_BUILD = Build(Path("/site/onnxruntime"), "onnxruntime-directml", "1.24.4", None, is_whole=True)
LIBRARY = r"""
int onnxgpt_planted_dependency(void);
int planted(void) { return onnxgpt_planted_dependency(); }
"""

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="plants shared libraries, with a C compiler on Linux"
)


def look(monkeypatch: pytest.MonkeyPatch, build: Build | None, cuda: Devices, directml: Devices = CARD) -> Finding:
    """The finding about CUDA, or about DirectML where that build is installed, on a machine with such devices."""
    devices = {"cuda": cuda, "dml": directml}
    monkeypatch.setattr(accelerators, "devices_of", devices.__getitem__)
    return accelerator_findings(build)[1 if build == DIRECTML_BUILD else 0]


@pytest.mark.parametrize(
    ("build", "cuda", "state", "found", "commands"),
    [
        (CPU_BUILD, NO_DRIVER, "ok", "no build that wants one", ()),
        (None, NO_DRIVER, "ok", "no build that wants one", ()),
        (
            CUDA_BUILD,
            NO_DRIVER,
            "note",
            "the CUDA build is installed, but there is no NVIDIA driver here: everything runs on the CPU",
            ("pip uninstall -y onnxruntime-gpu", 'pip install "onnxgpt[cpu]"'),
        ),
        (
            CPU_BUILD,
            A100,
            "note",
            "A100 with 85.9 GB, driver for CUDA 13.1: not used, the installed build of ONNX Runtime has no CUDA",
            ("pip uninstall -y onnxruntime", 'pip install "onnxgpt[cuda]"'),
        ),
        (
            CUDA_BUILD,
            Devices(A100.found, "", "12.4"),
            "fault",
            "driver for CUDA 12.4, but the installed build wants CUDA 13.0",
            (),
        ),
        (
            CUDA_BUILD,
            Devices((Device(0, "GTX 1080", 8 << 30, "6.1"),), "", "13.0"),
            "fault",
            "device 0: GTX 1080 with 8.6 GB: too old for CUDA 13.0",
            ("pip uninstall -y onnxruntime-gpu", 'pip install "onnxgpt[cpu]"'),
        ),
        (
            CUDA_BUILD,
            Devices((*A100.found, Device(1, "GTX 1080", 8 << 30, "6.1")), "", "13.0"),
            "note",
            "device 1: GTX 1080 with 8.6 GB: too old for CUDA 13.0",
            (),
        ),
        (DIRECTML_BUILD, NO_DRIVER, "ok", "device 0: Radeon with 17.2 GB", ()),
    ],
)
def test_devices_and_builds_are_held_together(
    build: Build | None,
    cuda: Devices,
    state: str,
    found: str,
    commands: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finding = look(monkeypatch, build, cuda)

    assert finding.state == state
    assert found in finding.found
    assert finding.commands == commands


def test_the_directml_build_without_an_adapter_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = look(monkeypatch, DIRECTML_BUILD, NO_DRIVER, Devices((), "DirectML is part of Windows alone"))

    assert finding.state == "note"
    assert "but DirectML is part of Windows alone: everything runs on the CPU" in finding.found


@needs_compiler
def test_libraries_of_cuda_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider linked with one library that is in NVIDIA's wheels, and with one that is nowhere."""
    package, wheels = tmp_path / "onnxruntime" / "capi", tmp_path / "nvidia" / "cu13" / "lib"
    for directory in (package, wheels):
        directory.mkdir(parents=True)
    absent = tmp_path / "gone" / "libcuabsent.so.13"
    absent.parent.mkdir()
    present = wheels / "libcupresent.so.13"
    for path in (absent, present):
        source = "int onnxgpt_planted_dependency(void) { return 1; }"
        subprocess.run(
            ["cc", "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-x", "c", "-", "-o", path],
            input=source,
            text=True,
            check=True,
        )
    provider = package / "libonnxruntime_providers_cuda.so"
    linked = ["cc", "-shared", "-fPIC", "-Wl,--no-as-needed", "-x", "c", "-", "-o", provider, "-x", "none"]
    subprocess.run([*linked, absent, present], input=LIBRARY, text=True, check=True)
    build = Build(package.parent, "onnxruntime-gpu", "1.31.1", "13.0", is_whole=True)
    finding = look(monkeypatch, build, A100)

    assert finding.state == "fault"
    assert "but libcuabsent.so.13 can't be found: CUDA can't be used" in finding.found
    assert finding.commands == ('pip install "onnxruntime-gpu[cuda,cudnn]==1.31.1"',)
    absent.rename(wheels / absent.name)
    assert look(monkeypatch, build, A100).state == "ok"


@pytest.mark.skipif(shutil.which("readelf") is None or sys.platform != "linux", reason="no readelf to compare with")
def test_needed_libraries_are_those_that_readelf_tells() -> None:
    [library] = (Path(onnxruntime.__file__).parent / "capi").glob("onnxruntime_pybind11_state*.so")
    lines = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout.splitlines()

    assert needed_libraries(library) == [line.split("[")[1].rstrip("]") for line in lines if "(NEEDED)" in line]


def test_what_is_no_library_needs_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "cut").write_bytes(b"\x7fELF\x02\x01" + bytes(20))

    assert [needed_libraries(tmp_path / name) for name in ("text", "cut", "none")] == [[], [], []]
    assert missing_libraries(["libonnxgpt_nowhere.so.1"], tmp_path) == ["libonnxgpt_nowhere.so.1"]


@needs_compiler
def test_the_command_tells_of_a_device_that_the_build_does_not_use(environment: Environment, tmp_path: Path) -> None:
    """A CUDA driver planted in C, and a build without CUDA."""
    source = (
        "#include <string.h>\n#include <stddef.h>\n"
        "int cuInit(unsigned f) { return 0; } int cuDriverGetVersion(int *v) { *v = 13000; return 0; }\n"
        "int cuDeviceGetCount(int *n) { *n = 1; return 0; } int cuDeviceGet(int *d, int i) { *d = i; return 0; }\n"
        'int cuDeviceGetName(char *n, int s, int d) { strncpy(n, "Planted", s); return 0; }\n'
        "int cuDeviceTotalMem_v2(size_t *b, int d) { *b = 8000000000; return 0; }\n"
        "int cuDeviceGetAttribute(int *v, int a, int d) { *v = a - 70; return 0; }\n"
    )
    driver = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", driver], input=source, text=True, check=True)
    environment.add("onnxruntime*")
    finding = environment.findings(LD_LIBRARY_PATH=str(tmp_path))["cuda"]

    assert finding["state"] == "note"
    assert finding["found"].startswith("device 0: Planted with 8.0 GB, driver for CUDA 13.0: not used")
    assert finding["facts"]["devices"][0]["compute_capability"] == "5.6"


def test_the_extra_is_the_one_that_fits_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxgpt.doctor import conflicts

    present = {"cuda": A100, "dml": Devices((), "none"), "cpu": Devices((Device(0, "CPU"),))}
    monkeypatch.setattr(conflicts, "devices_of", lambda name: present[name])
    assert wanted_extra() == "cuda"
    assert wanted_extra(["onnxruntime", "onnxruntime-gpu"]) == "cuda"
    assert wanted_extra(["onnxruntime", "onnxruntime-openvino"]) == "cpu"
    present |= {"cuda": NO_DRIVER, "dml": CARD}
    assert wanted_extra() == "directml"
    assert wanted_extra(["onnxruntime", "onnxruntime-gpu"]) == "cpu"
    assert wanted_extra(["onnxruntime", "onnxruntime-directml"]) == "directml"
