"""Compiles the read test with the system's C compiler and runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

SOURCE = Path(__file__).with_name("read_bandwidth.c")
# -march=native first: it chooses the widest loads that this machine has. Not every compiler knows it.
_OPTIMIZATIONS = (["-O3", "-march=native"], ["-O3"])


class BandwidthError(Exception):
    """The test could not be compiled or run."""


@dataclass(frozen=True)
class Bandwidth:
    """One run of the test: bytes per second of every pass, all threads together."""

    instructions: str
    passes: tuple[float, ...]

    @property
    def best(self) -> float:
        """The fastest pass."""
        return max(self.passes)

    @property
    def typical(self) -> float:
        """The median pass: the bound. A single pass can be disturbed, and on a virtual machine its clock too."""
        return median(self.passes)


class ReadTest:
    """The compiled test; a context manager that removes it again."""

    def __init__(self) -> None:
        """Compile.

        Raises:
            BandwidthError: there is no C compiler, or it failed.
        """
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise BandwidthError("no C compiler: install one (cc, gcc or clang), or name it in CC")
        self._directory = tempfile.TemporaryDirectory()
        self._program = Path(self._directory.name) / "read_bandwidth"
        complaint = ""
        for flags in _OPTIMIZATIONS:
            command = [*compiler.split(), *flags, "-pthread", "-o", str(self._program), str(SOURCE)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                return
            complaint = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
        self._directory.cleanup()
        raise BandwidthError(f"{SOURCE.name} could not be compiled: {complaint}")

    def run(self, threads: int, *, mebibytes: int = 256, passes: int = 5) -> Bandwidth:
        """Measure.

        Args:
            threads: each reads its own buffer.
            mebibytes: size of each buffer: much more than the caches hold.
            passes: how often the buffers are read.

        Raises:
            BandwidthError: the program failed.
        """
        command = [str(self._program), str(threads), str(mebibytes), str(passes)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise BandwidthError(done.stderr.strip() or f"the test ended with {done.returncode}")
        instructions, *speeds = done.stdout.split()
        return Bandwidth(instructions, tuple(float(speed) for speed in speeds))

    def close(self) -> None:
        """Remove the program."""
        self._directory.cleanup()

    def __enter__(self) -> ReadTest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
