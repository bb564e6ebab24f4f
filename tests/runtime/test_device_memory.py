"""A device's memory: asked of a driver planted in C, and errors from the texts that ONNX Runtime and its peers give."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import threading
import time

import pytest

import onnxgpt
from onnxgpt.runtime import device_memory
from onnxgpt.runtime.device_memory import DeviceMemory, DeviceRoom, asked_bytes, is_out_of_memory, weights_exceed
from onnxgpt.runtime.device_session import DeviceSession
from onnxgpt.runtime.errors import MemoryLimitError

# From microsoft/onnxruntime issues 9939 and 20038, huggingface/diffusers issue 791, and libonnxruntime itself.
CUDA_TEXT = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running FusedMatMul node. "
    "Name:'MatMul_92_FusedMatMulAndScale' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:331 "
    "void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for requested buffer of "
    "size 8388608000"
)
LIMIT_TEXT = "Available memory of 1048576 is smaller than requested bytes of 2097152"
DML_TEXT = (
    "Non-zero status code returned while running MemcpyToHost node. Name:'Memcpy_token_29' Status Message: "
    "MLOperatorAuthorImpl.cpp(1978) Exception(3) tid(4304) 8007000E Not enough memory resources are available to "
    "complete this operation."
)
OTHER_TEXT = "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: input_ids"
ROOM = DeviceRoom("cuda device 0 (Planted card)", 1_000_000, 500, lambda: DeviceMemory(40_000, 8 << 30))

DRIVER = r"""
#include <stddef.h>
static int retained = 0, pushed = 0;
int cuInit(unsigned flags) { return flags; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 40; return ordinal > 1 ? 101 : 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &retained; retained++; return device < 40; }
int cuDevicePrimaryCtxRelease_v2(int device) { retained--; return device < 40; }
int cuCtxPushCurrent_v2(void *context) { pushed++; return context != &retained; }
int cuCtxPopCurrent_v2(void **context) { *context = &retained; pushed--; return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = (size_t)3 << 30; *total = (size_t)8 << 30; return !pushed; }
int held(void) { return retained + pushed; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to plant a driver with")
    directory = tmp_path_factory.mktemp("driver")
    (directory / "driver.c").write_text(DRIVER)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", directory / "driver.so", directory / "driver.c"], check=True, timeout=60
    )
    return ctypes.CDLL(str(directory / "driver.so"))


def test_free_memory_is_asked_of_the_devices_own_context(driver: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "cuda_driver", lambda: driver)

    assert device_memory.device_memory("cuda", 1) == DeviceMemory(3 << 30, 8 << 30)
    assert device_memory.device_memory("cuda", 7) == DeviceMemory()  # no such device
    assert driver.held() == 0


def test_nobody_tells_the_memory_of_a_directml_device() -> None:
    assert device_memory.device_memory("dml", 0) == DeviceMemory()


@pytest.mark.parametrize(("text", "asked"), [(CUDA_TEXT, 8388608000), (LIMIT_TEXT, 2097152), (DML_TEXT, None)])
def test_a_full_device_is_a_memory_error_with_the_largest_context(text: str, asked: int | None) -> None:
    error = ROOM.translated(RuntimeError(text))

    assert asked_bytes(RuntimeError(text)) == asked
    assert isinstance(error, MemoryLimitError)
    assert str(error).startswith("cuda device 0 (Planted card) is out of memory: ")
    assert "40.0 kB is free" in str(error)
    assert "room for 1.0 MB, so the largest context that fits has 2000 tokens" in str(error)  # 1,000,000 / 500


def test_other_errors_are_left_as_they_are() -> None:
    assert ROOM.translated(RuntimeError(OTHER_TEXT)) is None
    assert not is_out_of_memory(RuntimeError("the memory of device 0 was read"))


def test_the_largest_context_is_told_for_as_many_rows_as_were_asked_for() -> None:
    error = ROOM.exceeded(40_001, rows=4)

    assert re.search(r"40.0 kB was asked for.* the largest context of 4 rows .* 500 tokens", str(error))


def test_a_device_that_tells_nothing_refuses_nothing_and_invents_no_figure() -> None:
    silent = DeviceRoom("dml device 0 (Planted card)", None, 500)

    error = silent.translated(RuntimeError(DML_TEXT))
    assert str(error) == (
        "dml device 0 (Planted card) is out of memory: more was asked for; lower max_new_tokens or batch_size, shorten "
        "the prompt, or quantize the bundle"
    )


def test_weights_that_do_not_fit_say_how_large_they_are() -> None:
    error = weights_exceed(
        "cuda device 0 (Planted card)", DeviceMemory(10**9, 8 << 30), 3 * 10**9, RuntimeError(CUDA_TEXT)
    )

    assert str(error).startswith(
        "the weights, 3.0 GB, do not fit on cuda device 0 (Planted card), where 1.0 GB is free now (8.4 GB could not "
        "be allocated): no context fits; "
    )


class PlantedSession:
    """Runs that take a while and count how many are under way; or fail with a text."""

    def __init__(self, failing: str = ""):
        self._failing = failing
        self.under_way = self.most = 0

    def run(self, *arguments: object) -> str:
        if self._failing:
            raise RuntimeError(self._failing)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        time.sleep(0.02)
        self.under_way -= 1
        return "done"

    run_with_iobinding = run_with_ort_values = run

    def get_providers(self) -> list[str]:
        return ["planted"]


@pytest.mark.parametrize("name", ["run", "run_with_iobinding", "run_with_ort_values"])
def test_every_way_to_run_fails_clearly_where_the_device_is_full(name: str) -> None:
    full = DeviceSession(PlantedSession(CUDA_TEXT), ROOM, one_at_a_time=False)
    with pytest.raises(MemoryLimitError, match="the largest context that fits has 2000 tokens"):
        getattr(full, name)()

    other = DeviceSession(PlantedSession(OTHER_TEXT), ROOM, one_at_a_time=True)
    for _ in range(2):  # a failed run lets the next one go on
        with pytest.raises(RuntimeError, match="INVALID_ARGUMENT"):
            getattr(other, name)()


@pytest.mark.parametrize("one_at_a_time", [True, False])
def test_directml_runs_one_at_a_time(one_at_a_time: bool) -> None:
    planted = PlantedSession()
    session = DeviceSession(planted, ROOM, one_at_a_time=one_at_a_time)
    threads = [threading.Thread(target=session.run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (planted.most == 1) is one_at_a_time
    assert session.get_providers() == ["planted"]


def test_a_model_generates_through_a_device_session_as_through_a_plain_one() -> None:
    plain, guarded = onnxgpt.load("fairytale", threads=2), onnxgpt.load("fairytale", threads=2)
    guarded.session._session = DeviceSession(guarded.session._session, ROOM, one_at_a_time=True)

    texts = [model.generate("Once upon a time", seed=7, max_new_tokens=12)[0].text for model in (plain, guarded)]
    assert texts[0] == texts[1]
