"""What ONNX Runtime's 8-bit and 4-bit matrix products find in this processor, as the operating system tells it.

Sources: how onnxruntime/core/mlas/lib/platform.cpp (1.31) chooses `QNBitGemmDispatch`, the kernels of MatMulNBits; the
names are those of Linux's /proc/cpuinfo.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from ..runtime.threads import CpuLimits
from .findings import Finding

NAME = "processor"
_X86 = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "amx_int8")
_ARM = ("asimddp", "i8mm", "asimdhp", "sve")
_RELEVANT = {"x86_64": _X86, "arm64": _ARM}
# Kernels of MatMulNBits, the best first, and all that each needs.
_KERNELS = {
    "x86_64": (
        ("AVX-512 VNNI", {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx2", "fma"}),
        ("AVX-512", {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma"}),
        ("AVX-VNNI", {"avx_vnni", "avx2", "fma"}),
        ("AVX2", {"avx2", "fma"}),
    ),
    "arm64": (("NEON i8mm", {"i8mm", "asimddp"}), ("NEON dot product", {"asimddp"})),
}
# sysctl names of macOS: Apple's chips, then Intel's.
_SYSCTLS = {
    "asimddp": "hw.optional.arm.FEAT_DotProd",
    "i8mm": "hw.optional.arm.FEAT_I8MM",
    "asimdhp": "hw.optional.arm.FEAT_FP16",
    "avx2": "hw.optional.avx2_0",
    "fma": "hw.optional.fma",
    "f16c": "hw.optional.f16c",
    "avx512f": "hw.optional.avx512f",
    "avx512bw": "hw.optional.avx512bw",
    "avx512dq": "hw.optional.avx512dq",
    "avx512vl": "hw.optional.avx512vl",
}
# IsProcessorFeaturePresent of winnt.h tells these; of AVX-512 only the foundation, and of VNNI and FMA nothing.
_WINDOWS = {"avx2": 40, "avx512f": 41, "asimddp": 43, "i8mm": 66, "asimdhp": 67}


@dataclass(frozen=True)
class Processor:
    """A processor.

    Attributes:
        architecture: `x86_64`, `arm64`, or as the system calls another one.
        name: what its maker calls it; empty where the system does not tell.
        features: those of its instruction sets that matter here.
        told: the features that the system tells about at all; of others it is not known whether they are there.
    """

    architecture: str
    name: str
    features: frozenset[str]
    told: frozenset[str]

    @property
    def kernel(self) -> str | None:
        """The best kernel of MatMulNBits that its features allow; None where there is none."""
        kernels = _KERNELS.get(self.architecture, ())
        return next((name for name, needed in kernels if needed <= self.features), None)

    @property
    def is_known(self) -> bool:
        """Whether the system tells enough to say that there is no kernel."""
        return any(needed <= self.told for _, needed in _KERNELS.get(self.architecture, ()))


def this_processor(root: Path = Path("/")) -> Processor:
    """The processor here; `root` is where `/proc` lies."""
    machine = platform.machine().lower()
    architecture = {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)
    relevant = frozenset(_RELEVANT.get(architecture, ()))
    if sys.platform == "darwin":
        told = relevant & _SYSCTLS.keys()
        return Processor(architecture, platform.processor(), frozenset(filter(_sysctl, told)), told)
    if sys.platform == "win32":
        features = _features_of_windows(relevant)
        implied = frozenset({"fma"} if "avx2" in features else ())  # as in every processor that was ever made
        return Processor(architecture, platform.processor(), features | implied, relevant & _WINDOWS.keys() | {"fma"})
    fields = _cpuinfo(root)
    flags = frozenset(f"{fields.get('flags', '')} {fields.get('Features', '')}".split())
    told = relevant if flags else frozenset()
    return Processor(architecture, fields.get("model name", ""), flags & relevant, told)


def processor_finding(processor: Processor, limits: CpuLimits) -> Finding:
    """Whether 8-bit and 4-bit products have a kernel here, and how many threads serve."""
    name = processor.name or processor.architecture
    facts = {
        "name": processor.name,
        "architecture": processor.architecture,
        "features": sorted(processor.features),
        "told": sorted(processor.told),
        "kernel": processor.kernel,
        "processors": limits.processors,
        "cores": limits.cores,
        "quota": limits.quota,
        "threads": limits.threads,
    }
    if processor.kernel is None and processor.is_known:
        lowest = "AVX2 and FMA" if processor.architecture == "x86_64" else "the dot product instructions"
        return Finding(
            NAME,
            "fault",
            f"{name} lacks {lowest}: int8 and int4 will be slow, slower than float32",
            "use bundles in float32, that is, export without quantizing",
            ("onnxgpt export SOURCE --out DIR",),
            facts,
        )
    kernel = (
        f"products in int8 can use {processor.kernel}" if processor.kernel else "which kernel products in int8 get "
    )
    kernel += "" if processor.kernel else "is not told by this system"
    quota = "" if limits.quota is None else f", held to {limits.quota:g} by its control group"
    of_logical = f" of {limits.processors} logical" if limits.processors != limits.cores else ""
    cores = f"{limits.cores} core{'' if limits.cores == 1 else 's'}{of_logical}{quota}"
    return Finding(NAME, "ok", f"{name}, {cores}: {kernel}, {_threads(limits)}", facts=facts)


def _threads(limits: CpuLimits) -> str:
    return f"{limits.threads} thread{'' if limits.threads == 1 else 's'}"


def _cpuinfo(root: Path) -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo."""
    try:
        text = (root / "proc" / "cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _sysctl(feature: str) -> bool:
    library = ctypes.util.find_library("c")
    if library is None:
        return False
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    arguments = (ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
    return ctypes.CDLL(library).sysctlbyname(_SYSCTLS[feature].encode(), *arguments) == 0 and value.value != 0


def _features_of_windows(relevant: frozenset[str]) -> frozenset[str]:
    if sys.platform != "win32":
        return frozenset()
    present = ctypes.WinDLL("kernel32").IsProcessorFeaturePresent
    return frozenset(name for name, number in _WINDOWS.items() if name in relevant and present(number))
