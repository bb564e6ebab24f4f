"""The process that runs one runtime in its own environment: JSON commands on stdin, one JSON reply a line on stdout.

    python worker.py MODULE CLASS MODEL --threads 2

Commands are objects with "do": "load", "generate", "reference", "divergence", "memory", "quit"; replies are objects,
with "error" when it failed and "not_measured" when the runtime can't do it. Whatever libraries print goes to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from compare.runtime import NotMeasuredError, Runtime

SHOWN_TOKENS = 16  # of each generation, in the reply: to see that runtimes agree


def serve(runtime: Runtime, commands: TextIO, replies: TextIO) -> None:
    """Answer commands until "quit" or the end of the stream."""
    handlers: dict[str, Callable[..., dict[str, Any]]] = {
        "load": load,
        "generate": generate,
        "reference": reference,
        "divergence": divergence,
        "memory": memory,
    }
    for line in commands:
        command = json.loads(line)
        name = command.pop("do")
        if name == "quit":
            return
        try:
            reply = handlers[name](runtime, **command)
        except NotMeasuredError as error:
            reply = {"not_measured": str(error)}
        except Exception as error:  # whatever a runtime raises: the comparison goes on without this measurement
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def load(runtime: Runtime) -> dict[str, float]:
    """Seconds of importing the libraries and of loading the model."""
    started = time.perf_counter()
    runtime.import_libraries()
    imported = time.perf_counter()
    runtime.load()
    return {"import_seconds": imported - started, "load_seconds": time.perf_counter() - imported}


class Stopwatch:
    """Notes when tokens come, and asks to stop once the steps after the first took `limit_seconds`."""

    def __init__(self, limit_seconds: float):
        self.times: list[float] = []
        self.ids: list[int] = []  # of the first row
        self._limit = limit_seconds
        self.started = time.perf_counter()

    def __call__(self, tokens: Sequence[int], at: float | None = None, /) -> bool:
        """One step is done, or was `at` some time ago."""
        now = time.perf_counter() if at is None else at
        self.times.append(now)
        if len(self.ids) < SHOWN_TOKENS:
            self.ids.append(int(tokens[0]))
        return now - self.times[0] >= self._limit


def generate(
    runtime: Runtime, prompts: list[list[int]], new_tokens: int, limit_seconds: float = 1e9
) -> dict[str, float | int | list[int]]:
    """Seconds to the first token, seconds from there to the last, and how many came after the first (per row)."""
    watch = Stopwatch(limit_seconds)
    runtime.generate(prompts, new_tokens, watch)
    return {
        "first_seconds": watch.times[0] - watch.started,
        "rest_seconds": watch.times[-1] - watch.times[0],
        "rest_tokens": len(watch.times) - 1,
        "ids": watch.ids,
    }


def reference(runtime: Runtime, token_ids: list[int], path: str) -> dict[str, int]:
    """Write the log-probabilities of every position, float32 [sequence, vocabulary], for others' `divergence`."""
    import numpy as np

    np.save(path, log_softmax(runtime.logits(token_ids)))
    return {"positions": len(token_ids)}


def divergence(runtime: Runtime, token_ids: list[int], path: str) -> dict[str, float]:
    """Sums over the positions: KL divergence from the reference, equal top tokens, negative log-likelihoods of both.

    KL(reference || runtime) in nats, over the whole vocabulary. The likelihoods are of every token but the first.
    """
    import numpy as np

    theirs = np.load(path, mmap_mode="r")
    ours = log_softmax(runtime.logits(token_ids))
    if ours.shape != theirs.shape:
        raise ValueError(f"logits are {ours.shape}, the reference's {theirs.shape}")
    total, same = 0.0, 0
    for row, expected in zip(ours, theirs, strict=True):  # row by row: a window's log-probabilities take 100 MB
        total += float(np.sum(np.exp(expected) * (expected - row), dtype=np.float64))
        same += int(row.argmax() == expected.argmax())
    targets = np.asarray(token_ids[1:])
    positions = np.arange(len(targets))
    return {
        "kl": total,
        "top1": same,
        "positions": len(token_ids),
        "nll": -float(ours[positions, targets].sum(dtype=np.float64)),
        "reference_nll": -float(theirs[positions, targets].sum(dtype=np.float64)),
        "targets": len(targets),
    }


def log_softmax(logits: Any) -> Any:
    """float32 [sequence, vocabulary] of natural logarithms; sums in float64."""
    import numpy as np

    result = np.array(logits, np.float32)
    for row in result:
        row -= row.max()
        row -= np.float32(np.log(np.sum(np.exp(row), dtype=np.float64)))
    return result


def memory(runtime: Runtime) -> dict[str, int | None]:
    """The most bytes that this process had in memory so far; None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return {"peak_bytes": None}
    found = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")]
    return {"peak_bytes": found[0] if found else None}


def main() -> None:
    """Serve on the real stdin and stdout; anything that a library prints to stdout goes to stderr instead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("runtime")
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    kind = getattr(importlib.import_module(options.module), options.runtime)
    serve(kind(options.model, options.threads), sys.stdin, replies)


if __name__ == "__main__":
    main()
