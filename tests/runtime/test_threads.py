"""Thread counts, from planted trees of Linux's /proc and /sys, from Windows' records, and from this machine."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from onnxgpt.runtime.threads import CpuLimits, cpu_limits, default_threads
from onnxgpt.runtime.threads_windows import core_masks

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw"
V1_MOUNT = "33 32 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n", encoding="utf-8")
    return root


def topology(siblings: list[str], name: str = "core_cpus_list") -> dict[str, str]:
    """What /sys says of processors 0, 1, …: with whom each shares its core."""
    return {f"sys/devices/system/cpu/cpu{index}/topology/{name}": each for index, each in enumerate(siblings)}


def limits(root: Path, count: int) -> CpuLimits:
    return cpu_limits(root, frozenset(range(count)))


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc and /sys")


@linux
@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_two_processors_of_one_core_count_once(tmp_path: Path, name: str) -> None:
    plant(tmp_path, topology(["0,4", "1,5", "2,6", "3,7"] * 2, name))

    assert limits(tmp_path, 8) == CpuLimits(processors=8, cores=4)


@linux
def test_cores_outside_the_affinity_mask_do_not_count(tmp_path: Path) -> None:
    plant(tmp_path, topology(["0-1", "0-1", "2-3", "2-3"]))

    assert cpu_limits(tmp_path, frozenset({0, 1})).threads == 1
    assert cpu_limits(tmp_path, frozenset({1, 2})).threads == 2


@linux
def test_where_the_system_tells_nothing_processors_count(tmp_path: Path) -> None:
    assert limits(tmp_path, 3) == CpuLimits(processors=3, cores=3)


@linux
@pytest.mark.parametrize(
    ("cpu_max", "quota", "threads"),
    [
        ("max 100000", None, 4),
        ("200000 100000", 2.0, 2),
        ("149000 100000", 1.49, 1),
        ("150000 100000", 1.5, 2),
        ("340000 100000", 3.4, 3),
        ("20000 100000", 0.2, 1),
        ("1600000 100000", 16.0, 4),
        ("nonsense", None, 4),
        ("", None, 4),
    ],
)
def test_a_quota_bounds_threads(tmp_path: Path, cpu_max: str, quota: float | None, threads: int) -> None:
    plant(tmp_path, topology(["0", "1", "2", "3"]))
    plant(tmp_path, {"proc/self/mountinfo": V2_MOUNT, "proc/self/cgroup": "0::/user.slice/app"})
    plant(tmp_path, {"sys/fs/cgroup/user.slice/app/cpu.max": cpu_max})

    found = limits(tmp_path, 4)

    assert (found.quota, found.threads) == (quota, threads)


@pytest.mark.parametrize(
    ("cores", "quota", "threads"), [(1, None, 1), (2, None, 1), (8, None, 4), (8, 3.0, 1), (5, None, 2)]
)
def test_half_of_the_threads_save_power(cores: int, quota: float | None, threads: int) -> None:
    assert CpuLimits(processors=16, cores=cores, quota=quota).thrifty_threads == threads


@linux
def test_the_least_quota_of_the_group_and_those_above_it_counts(tmp_path: Path) -> None:
    plant(tmp_path, {"proc/self/mountinfo": V2_MOUNT, "proc/self/cgroup": "0::/pod/container/process"})
    plant(
        tmp_path,
        {
            "sys/fs/cgroup/pod/cpu.max": "300000 100000",
            "sys/fs/cgroup/pod/container/cpu.max": "500000 100000",
            "sys/fs/cgroup/pod/container/process/cpu.max": "max 100000",
            "sys/fs/cgroup/other/cpu.max": "100000 100000",
        },
    )

    assert limits(tmp_path, 8).quota == 3.0


@linux
def test_version_1_has_its_quota_in_two_files(tmp_path: Path) -> None:
    plant(tmp_path, {"proc/self/mountinfo": V1_MOUNT, "proc/self/cgroup": "5:memory:/a\n4:cpu,cpuacct:/a/b\n0::/"})
    group = "sys/fs/cgroup/cpu,cpuacct/a"
    plant(tmp_path, {f"{group}/cpu.cfs_quota_us": "250000", f"{group}/cpu.cfs_period_us": "100000"})
    plant(tmp_path, {f"{group}/b/cpu.cfs_quota_us": "-1", f"{group}/b/cpu.cfs_period_us": "100000"})

    assert limits(tmp_path, 8).quota == 2.5


@linux
@pytest.mark.parametrize("own", ["/docker/4f2a", "/docker/4f2a/inner", "/../..", "/elsewhere"])
def test_a_container_s_mount_shows_a_group_of_the_host(tmp_path: Path, own: str) -> None:
    mount = V1_MOUNT.replace(" / ", " /docker/4f2a ", 1)
    plant(tmp_path, {"proc/self/mountinfo": mount, "proc/self/cgroup": f"4:cpu,cpuacct:{own}"})
    place = "sys/fs/cgroup/cpu,cpuacct"
    plant(tmp_path, {f"{place}/cpu.cfs_quota_us": "400000", f"{place}/cpu.cfs_period_us": "100000"})

    assert limits(tmp_path, 8).threads == 4


@linux
@pytest.mark.skipif(shutil.which("lscpu") is None, reason="compares with lscpu, which is not there")
def test_this_machine_s_cores_are_those_that_lscpu_counts() -> None:
    allowed = os.sched_getaffinity(0)
    lines = subprocess.run(["lscpu", "-p=CPU,CORE"], capture_output=True, text=True, check=True).stdout.splitlines()
    pairs = [tuple(map(int, line.split(","))) for line in lines if not line.startswith("#")]

    found = cpu_limits()

    assert found.cores == len({core for cpu, core in pairs if cpu in allowed})
    assert found.processors == len(allowed)
    assert 1 <= default_threads() <= found.cores


@linux
def test_the_affinity_mask_of_the_process_is_asked() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from onnxgpt.runtime.threads import cpu_limits; found = cpu_limits(); print(found.processors, found.threads)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert told == "1 1\n"


@pytest.mark.skipif(sys.platform.startswith("linux"), reason="for systems that are not Linux")
def test_another_system_tells_a_count() -> None:
    found = cpu_limits()

    assert 1 <= found.cores <= found.processors == os.cpu_count()


def test_records_of_windows_hold_a_mask_for_each_core() -> None:
    """A core is RelationProcessorCore (0), size 48, flags 1 where its threads are two, one GROUP_AFFINITY."""
    pointer = ctypes.sizeof(ctypes.c_void_p)
    mask = "<QH6x" if pointer == 8 else "<IH6x"

    def record(kind: int, *masks: int) -> bytes:
        groups = b"".join(struct.pack(mask, each, group) for group, each in enumerate(masks))
        return struct.pack("<IIBB20sH", kind, 32 + len(groups), 1, 0, bytes(20), len(masks)) + groups

    records = record(0, 0b0011) + record(3, 0b1111) + record(0, 0b1100) + record(0, 0b01 << 63 if pointer == 8 else 1)

    assert list(core_masks(records)) == [(0b0011,), (0b1100,), (1 << 63 if pointer == 8 else 1,)]
    assert list(core_masks(record(0, 1, 2))) == [(1, 2)]
    assert list(core_masks(b"")) == []
