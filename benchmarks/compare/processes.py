"""A worker's process as the comparison sees it: one command at a time, no processor time while others are measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .environments import last_complaint
from .runtime import NotMeasuredError


class WorkerError(Exception):
    """A worker died, or what it was asked to do failed there."""


class Worker:
    """A running worker. It is stopped (SIGSTOP) whenever it has nothing to do, so that no thread of it can spin."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], log: Path):
        self.started = time.perf_counter()
        self._log: IO[bytes] = log.open("wb")
        self._process = subprocess.Popen(
            command, env=dict(variables), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            text=True, encoding="utf-8",
        )  # fmt: skip
        self._stopped = False
        self._used_when_stopped = 0.0
        self.idle_seconds = 0.0  # processor time that it used while it should have used none

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Wake it, send a command, wait for the reply, and stop it again.

        Raises:
            NotMeasuredError: the runtime can't do it.
            WorkerError: it failed, or the process ended.
        """
        self._wake()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the process ended ({self._process.wait()}): {self._complaint()}")
        self._stop()
        reply: dict[str, Any] = json.loads(line)
        if "not_measured" in reply:
            raise NotMeasuredError(reply["not_measured"])
        if "error" in reply:
            raise WorkerError(last_complaint(reply["error"]))
        return reply

    @property
    def age(self) -> float:
        """Seconds since the process was started."""
        return time.perf_counter() - self.started

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()  # also ends one that is stopped
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wake(self) -> None:
        if self._stopped:
            self.idle_seconds += processor_seconds(self._process.pid) - self._used_when_stopped
            self._process.send_signal(signal.SIGCONT)
            self._stopped = False

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        # The signal is on its way when the call returns: wait until every thread has stopped.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._used_when_stopped = processor_seconds(self._process.pid)
        self._stopped = True

    def _complaint(self) -> str:
        self._log.flush()
        return last_complaint(Path(self._log.name).read_text(encoding="utf-8", errors="replace"))


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far, all threads; 0 where the system does not tell."""
    try:
        # After the command's name, which is in brackets and may hold spaces: utime and stime are fields 14 and 15.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
