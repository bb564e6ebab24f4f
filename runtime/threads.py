"""How many threads are worth having: one for each physical core that this process may use, within its CPU quota.

ONNX Runtime counts physical cores, but knows nothing of a container's quota (cgroup `cpu.max`): in a container with two
CPUs on a machine of sixty-four cores it would start sixty-four threads, which wait for one another most of the time.
Two threads on one core (hyper-threading) share what matrix products need, so logical processors don't count.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

if sys.platform == "win32":
    from . import threads_windows as _system
elif sys.platform == "darwin":
    from . import threads_macos as _system
else:
    _system = None

_ROOT = Path("/")


@dataclass(frozen=True)
class CpuLimits:
    """What the machine has, and what of it this process may use.

    Attributes:
        processors: logical processors that the process may run on.
        cores: physical cores behind them; on Apple's chips the performance cores alone.
        quota: processors' worth of time that the process's control groups allow; None: no limit.
    """

    processors: int
    cores: int
    quota: float | None = None

    @property
    def threads(self) -> int:
        """The count of threads to start: the quota rounded to the nearest whole number, cores at most, one at least.

        Operators end when their last thread does, so threads that are stopped for the rest of a period cost more than
        they bring where the fraction is small. With a quota of 1.5 two threads decoded 1.11 times as fast as one (int8,
        135 million parameters) and read prompts 1.44 times as fast; with 0.5, two took 1.4 times as long as one.
        """
        return self.cores if self.quota is None else max(1, min(self.cores, int(self.quota + 0.5)))

    @property
    def thrifty_threads(self) -> int:
        """Threads that save power: half of them. Decoding waits for memory: it loses less speed than processor time."""
        return max(1, self.threads // 2)


def default_threads(*, low_power: bool = False) -> int:
    """Threads for this process when the user names no number."""
    limits = cpu_limits()
    return limits.thrifty_threads if low_power else limits.threads


def cpu_limits(root: Path = _ROOT, allowed: frozenset[int] | None = None) -> CpuLimits:
    """What this process may use. Where a system doesn't tell, all that it has counts; never less than one.

    Args:
        root: where `/proc` and `/sys` lie.
        allowed: logical processors that count, by number; None: those that the system lets this process run on.
    """
    if _system is not None:
        processors = os.cpu_count() or 1
        return CpuLimits(processors, max(1, min(_system.physical_cores() or processors, processors)))
    if allowed is None:
        allowed = _allowed_processors()
    processors = max(1, len(allowed))
    return CpuLimits(processors, _linux_cores(root, allowed) or processors, _cgroup_quota(root))


def _allowed_processors() -> frozenset[int]:
    """What the affinity mask holds, which is where `taskset` and cpusets show."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _linux_cores(root: Path, allowed: frozenset[int]) -> int:
    """Physical cores behind logical processors; 0 where `/sys` doesn't tell.

    Processors of one core name the same siblings. Their `core_id` would not do: it is unique within a package only.
    """
    siblings = set()
    for number in allowed:
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        named = _text(topology / "core_cpus_list") or _text(topology / "thread_siblings_list")  # the older name
        if not named:
            return 0
        siblings.add(named)
    return len(siblings)


def _cgroup_quota(root: Path) -> float | None:
    """The least quota, in processors, of the process's control groups and of all above them; None: no limit.

    See `cgroup-v2.rst` (cpu.max) and `sched-bwc.rst` (cpu.cfs_quota_us) in Linux's documentation.
    """
    quotas = [quota for group in _cgroups(root) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def _quota(group: Path) -> float | None:
    """One group's quota: `cpu.max` holds "QUOTA PERIOD" or "max PERIOD"; the older pair of files has -1 for max."""
    words = _text(group / "cpu.max").split()
    if not words:
        words = [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")]
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return None
    quota, period = map(int, words)
    return quota / period if quota and period else None


def _cgroups(root: Path) -> Iterator[Path]:
    """Directories of the process's control groups that may limit its time, each followed by those above it."""
    for kind, top, place in _cgroup_mounts(root):
        own = _own_cgroup(root, kind)
        if own is None:
            continue
        # In a container the mount often shows a group of the host as if it were the root.
        within = own.relative_to(top) if own.is_relative_to(top) else PurePosixPath()
        directory = place.joinpath(*(part for part in within.parts if part not in ("/", "..")))
        while True:
            yield directory
            if directory == place:
                break
            directory = directory.parent


def _cgroup_mounts(root: Path) -> Iterator[tuple[str, PurePosixPath, Path]]:
    """Kind ("cgroup" or "cgroup2"), which group is mounted, and where, of each hierarchy; see proc_pid_mountinfo(5)."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        mounted, told = before.split(), after.split()
        if len(mounted) < 5 or len(told) < 3:
            continue
        if told[0] == "cgroup2" or (told[0] == "cgroup" and "cpu" in told[2].split(",")):
            yield told[0], PurePosixPath(mounted[3]), root / mounted[4].lstrip("/")


def _own_cgroup(root: Path, kind: str) -> PurePosixPath | None:
    """The process's group: in `/proc/self/cgroup` version 2 has no name, the older ones name their controllers."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        if controllers == "" if kind == "cgroup2" else "cpu" in controllers.split(","):
            return PurePosixPath(group or "/")
    return None


def _text(file: Path) -> str:
    """What a file of the system says; empty where it doesn't."""
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
