"""Devices are asked of drivers: here of drivers planted in C, as cuda.h and dxgi.h declare them, and of none at all."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onnxgpt.runtime.devices import Device, Devices, devices_of
from onnxgpt.runtime.directx import Adapter, directx_adapters

CUDA_DRIVER = r"""
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
static int failing(const char *name) { const char *f = getenv("PLANTED_FAILURE"); return f && !strcmp(f, name); }
int cuInit(unsigned flags) { return flags ? 1 : failing("cuInit") ? 100 : 0; }
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuDeviceGetCount(int *count) { *count = failing("none") ? 0 : 2; return failing("count") ? 999 : 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 40; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, device == 40 ? "Planted A" : "Planted B", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)(device == 40 ? 80 : 6) << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? (device == 40 ? 9 : 8) : attribute == 76 ? (device == 40 ? 0 : 6) : -1; return 0; }
int cuGetErrorName(int error, const char **name) { *name = error == 100 ? "CUDA_ERROR_NO_DEVICE" : 0;
    return error != 100; }
"""

DXGI = r"""
#include <stdint.h>
#include <string.h>
typedef struct { uint16_t description[128]; uint32_t vendor, device, subsystem, revision;
    size_t video, system, shared; uint32_t low; int32_t high; uint32_t flags; } Description;
typedef struct { void **table; } Object;
int alive = 0;
static uint32_t release(Object *self) { (void)self; return --alive; }
static int describe(Object *self, Description *to);
static void *adapter_table[11] = {[2] = release, [10] = describe};
static Object adapters[3] = {{adapter_table}, {adapter_table}, {adapter_table}};
static int describe(Object *self, Description *to) {
    long index = self - adapters;
    const char *names[] = {"Planted card", "Microsoft Basic Render Driver", "Planted renderer"};
    memset(to, 0xff, sizeof *to);
    memset(to->description, 0, sizeof to->description);
    for (size_t i = 0; names[index][i]; i++) to->description[i] = names[index][i];
    if (index == 0) to->description[5] = 0xe9;
    to->vendor = index == 1 ? 0x1414 : 0x1002; to->device = 0x8c;
    to->video = (size_t)(index == 0 ? 16 : 0) << 30; to->flags = index == 2 ? 2 : 0;
    return 0; }
static int enumerate(Object *self, uint32_t index, Object **to) {
    (void)self;
    if (index >= 3) return (int)0x887A0002;  /* DXGI_ERROR_NOT_FOUND */
    *to = &adapters[index]; alive++; return 0; }
static void *factory_table[14] = {[2] = release, [12] = enumerate};
static Object factory = {factory_table};
static const unsigned char wanted[16] = {  /* IDXGIFactory1 as dxgi.h has it: a long, two shorts, eight bytes */
    0x78, 0xae, 0x0a, 0x77, 0x6f, 0xf2, 0xba, 0x4d, 0xa8, 0x29, 0x25, 0x3c, 0x83, 0xd1, 0xb3, 0x87};
int CreateDXGIFactory1(const void *identifier, Object **to) {
    if (memcmp(identifier, wanted, 16)) return (int)0x80004002;  /* E_NOINTERFACE */
    *to = &factory; alive++; return 0; }
"""

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="plants shared libraries, with a C compiler on Linux"
)


def compiled(source: str, path: Path) -> Path:
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", path], input=source, text=True, check=True)
    return path


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CUDA driver of two devices."""
    return compiled(CUDA_DRIVER, tmp_path_factory.mktemp("driver") / "libcuda.so.1").parent


def asked(directory: Path, **environment: str) -> dict:
    """What a fresh process finds for `cuda` when a directory is on the loader's path."""
    program = (
        "import dataclasses, json; from onnxgpt.runtime.devices import devices_of\n"
        "print(json.dumps(dataclasses.asdict(devices_of('cuda'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"LD_LIBRARY_PATH": str(directory)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@needs_compiler
def test_the_cuda_driver_s_devices_are_told(driver: Path) -> None:
    found = asked(driver)

    assert found == {
        "found": [
            {"index": 0, "name": "Planted A", "memory_bytes": 80 << 30, "compute_capability": "9.0"},
            {"index": 1, "name": "Planted B", "memory_bytes": 6 << 30, "compute_capability": "8.6"},
        ],
        "reason": "",
        "cuda_version": "13.1",
    }


@needs_compiler
@pytest.mark.parametrize(
    ("failure", "environment", "reason"),
    [
        ("cuInit", {}, "the NVIDIA driver offers no device (CUDA_ERROR_NO_DEVICE)"),
        ("count", {}, "the NVIDIA driver offers no device (error 999)"),
        ("none", {}, "the NVIDIA driver counts no device"),
        (
            "none",
            {"CUDA_VISIBLE_DEVICES": "-1"},
            "the NVIDIA driver counts no device, with CUDA_VISIBLE_DEVICES='-1' in the environment",
        ),
    ],
)
def test_a_driver_without_devices_says_why(driver: Path, failure: str, environment: dict, reason: str) -> None:
    found = asked(driver, PLANTED_FAILURE=failure, **environment)

    assert (found["found"], found["reason"]) == ([], reason)


def test_no_driver_is_a_reason_too(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("not a library")
    if devices_of("cuda"):
        pytest.skip("a real CUDA device is here")

    assert asked(tmp_path)["found"] == []
    assert asked(tmp_path)["reason"]


@needs_compiler
def test_adapters_are_read_through_com_and_released(tmp_path: Path) -> None:
    library = ctypes.CDLL(str(compiled(DXGI, tmp_path / "dxgi.so")))

    assert directx_adapters(library) == (
        Adapter(0, "Plantéd card", 16 << 30, False),
        Adapter(1, "Microsoft Basic Render Driver", 0, True),
        Adapter(2, "Planted renderer", 0, True),
    )
    assert ctypes.c_int.in_dll(library, "alive").value == 0


def test_the_cpu_is_always_there_and_directml_only_on_windows() -> None:
    assert devices_of("cpu") == Devices((Device(0, "CPU"),))
    assert devices_of("cpu")
    if sys.platform != "win32":
        assert not devices_of("dml")
        assert "Windows" in devices_of("dml").reason


@pytest.mark.cuda
def test_a_real_device_is_found() -> None:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no nvidia-smi, so no NVIDIA device")
    shown = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
    )

    names = {device.name for device in devices_of("cuda").found}
    assert names <= set(shown.stdout.splitlines())
    assert names
