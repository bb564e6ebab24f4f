"""Devices beside the CPU: whether they are there, whether the installed build uses them, and what is missing for it."""

from __future__ import annotations

import sys
from dataclasses import asdict

from ..runtime.devices import Device, Devices, devices_of
from ..runtime.memory import format_bytes
from ..runtime.providers import PROVIDERS
from .builds import Build
from .findings import Finding
from .shared_libraries import missing_libraries, needed_libraries

_CUDA_BUILD, _DIRECTML_BUILD = PROVIDERS["cuda"].package, PROVIDERS["dml"].package
_CUDA_LIBRARY = "libonnxruntime_providers_cuda.so"
_LEAST_CAPABILITY_OF_CUDA_13 = (7, 5)  # its release notes: Maxwell, Pascal and Volta are not compiled for any more
_WINDOWS_LIBRARIES = ("cublasLt64_{}.dll", "cublas64_{}.dll", "cudart64_{}.dll")
_OF_CUDA = ("libcu", "libnvrtc", "libnv")  # what its libraries' names begin with
_DRIVER = "libcuda.so"  # comes with the driver, which is judged by itself


def accelerator_findings(build: Build | None) -> list[Finding]:
    """What is there of CUDA and, on Windows, of DirectML.

    Args:
        build: the build of ONNX Runtime that is installed.
    """
    findings = [_cuda_finding(devices_of("cuda"), build)]
    if sys.platform == "win32" or (build is not None and build.name == _DIRECTML_BUILD):
        findings.append(_directml_finding(devices_of("dml"), build))
    return findings


def _cuda_finding(devices: Devices, build: Build | None) -> Finding:
    has_cuda = build is not None and (build.cuda_version is not None or build.name == _CUDA_BUILD)
    facts = _facts(devices) | {"cuda_version_of_build": build.cuda_version if build else None, "usable": False}
    if not devices:
        if not has_cuda:
            return Finding(
                "cuda", "ok", f"no NVIDIA device ({devices.reason}), and no build that wants one", facts=facts
            )
        found = f"the CUDA build is installed, but {devices.reason}: everything runs on the CPU"
        advice = "install NVIDIA's driver where there is a device, or the build for the CPU, which is a tenth the size"
        return Finding("cuda", "note", found, advice, _exchange(_CUDA_BUILD, "cpu"), facts)
    shown = f"{_listed(devices.found)}, driver for CUDA {devices.cuda_version}"
    if build is None or not has_cuda:
        found = f"{shown}: not used, the installed build of ONNX Runtime has no CUDA"
        commands = () if build is None else _exchange(build.name or "onnxruntime", "cuda")
        return Finding("cuda", "note", found, "to compute there, install the build with CUDA", commands, facts)
    if _major(devices.cuda_version) < _major(build.cuda_version):
        found = f"{shown}, but the installed build wants CUDA {build.cuda_version}"
        advice = f"install a driver for CUDA {build.cuda_version} or newer from https://www.nvidia.com/drivers"
        return Finding("cuda", "fault", found, advice, (), facts)
    if too_old := [device for device in devices.found if _is_too_old(device, build)]:
        found = (
            f"{_listed(tuple(too_old))}: too old for CUDA {build.cuda_version}, which the installed build is made for"
        )
        advice = "install a build of ONNX Runtime for CUDA 12, or the one for the CPU"
        if len(too_old) == len(devices.found):
            return Finding("cuda", "fault", found, advice, _exchange(_CUDA_BUILD, "cpu"), facts)
        return Finding(
            "cuda", "note", f"{shown}; {found}", f"{advice}, or name a newer device with --device", (), facts
        )
    missing = missing_libraries(_cuda_libraries(build), build.directory.parent)
    facts |= {"missing_libraries": missing, "usable": not missing}
    if missing:
        version = f"=={build.version}" if build.version else ""
        found = f"{shown}, but {', '.join(missing)} can't be found: CUDA can't be used"
        advice = f"install the libraries of CUDA {build.cuda_version}"
        command = f'pip install "{_CUDA_BUILD}[cuda,cudnn]{version}"'
        return Finding("cuda", "fault", found, advice, (command,), facts)
    return Finding("cuda", "ok", f"{shown}, and the libraries of CUDA {build.cuda_version} are there", facts=facts)


def _directml_finding(devices: Devices, build: Build | None) -> Finding:
    has_directml = build is not None and build.name == _DIRECTML_BUILD
    facts = _facts(devices) | {"usable": bool(devices) and has_directml}
    if not devices:
        if not has_directml:
            return Finding("directml", "ok", f"{devices.reason}, and no build that wants one", facts=facts)
        found = f"the DirectML build is installed, but {devices.reason}: everything runs on the CPU"
        commands = _exchange(_DIRECTML_BUILD, "cpu")
        return Finding("directml", "note", found, "install the build for the CPU", commands, facts)
    if not has_directml:
        found = f"{_listed(devices.found)}: not used, the installed build of ONNX Runtime has no DirectML"
        commands = () if build is None else _exchange(build.name or "onnxruntime", "directml")
        return Finding("directml", "note", found, "to compute there, install the build with DirectML", commands, facts)
    return Finding("directml", "ok", _listed(devices.found), facts=facts)


def _is_too_old(device: Device, build: Build) -> bool:
    capability = tuple(int(part) for part in (device.compute_capability or "0").split("."))
    return _major(build.cuda_version) >= 13 and capability < _LEAST_CAPABILITY_OF_CUDA_13


def _cuda_libraries(build: Build) -> list[str]:
    """The libraries of CUDA that the build's provider is linked with."""
    if sys.platform == "win32":
        return [name.format(_major(build.cuda_version)) for name in _WINDOWS_LIBRARIES]
    needed = needed_libraries(build.directory / "capi" / _CUDA_LIBRARY)
    return [name for name in needed if name.startswith(_OF_CUDA) and not name.startswith(_DRIVER)]


def _listed(found: tuple[Device, ...]) -> str:
    """For people, by the numbers that --device takes."""
    return ", ".join(f"device {each.index}: {each.name} with {format_bytes(each.memory_bytes or 0)}" for each in found)


def _major(version: str | None) -> int:
    first = (version or "").split(".")[0]
    return int(first) if first.isdigit() else 0


def _exchange(installed: str, extra: str) -> tuple[str, ...]:
    return f"pip uninstall -y {installed}", f'pip install "onnxgpt[{extra}]"'


def _facts(devices: Devices) -> dict[str, object]:
    return {
        "devices": [asdict(device) for device in devices.found],
        "reason": devices.reason,
        "driver_cuda_version": devices.cuda_version,
    }
