"""One thread and two (or more), spinning or asleep where they wait: tokens per second, and processor time for a token.

Each case is a process of its own that has the model loaded; they take turns, in random order, and are stopped (SIGSTOP)
while others are measured. Ratios to the first case are taken round by round; the table shows their medians. Processor
time is what the kernel counts for the process, user and system: what a battery pays for, as far as a program can see.

    python benchmarks/threads.py fairytale --rounds 10 > threads.md

Linux or macOS: Windows has no SIGSTOP.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

SPINNING = "session.intra_op.allow_spinning"
WORKLOADS = ("decode", "prefill")


@dataclass
class Case:
    """Session options, and what they came to: seconds and processor seconds for a token, by workload and round."""

    name: str
    threads: int
    entries: Mapping[str, str] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in WORKLOADS})
    processor: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in WORKLOADS})


def cases(threads: int) -> list[Case]:
    """The most threads first, which the others are compared with."""
    many = f"{threads} threads"
    return [
        Case(f"{many}, spinning", threads),
        Case(f"{many}, asleep", threads, {SPINNING: "0"}),
        Case(f"{many}, spinning 20 µs", threads, {"session.intra_op.spin_duration_us": "20"}),
        Case(f"{many}, no spinning between runs", threads, {"session.force_spinning_stop": "1"}),
        Case("1 thread", 1),
        Case("1 thread, asleep", 1, {SPINNING: "0"}),
    ]


def serve(bundle: str, threads: int, entries: Mapping[str, str]) -> None:
    """In a process of its own: load, then measure what each line of stdin asks for (workload and count of tokens)."""
    import numpy as np

    import onnxgpt
    from onnxgpt.runtime import opening

    make_options = opening.session_options

    def with_entries(*arguments: object, **named: object) -> object:
        options = make_options(*arguments, **named)  # type: ignore[arg-type]
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        return options

    opening.session_options = with_entries
    session = onnxgpt.load(bundle, provider="cpu", threads=threads).session
    print("{}", flush=True)
    for line in sys.stdin:
        workload, count = json.loads(line)
        prompt = np.array([[index * 7919 % session.spec.vocab_size for index in range(count)]])
        with session.new_cache(capacity=2 * count) as cache:
            if workload == "decode":
                logits = session.step(prompt[:, :16], cache)
            clock, processor = time.perf_counter(), time.process_time()
            if workload == "prefill":
                session.step(prompt, cache)
            else:
                for _ in range(count):
                    logits = session.step(np.array([[int(logits[0, -1].argmax())]]), cache)
            spent = [(time.perf_counter() - clock) / count, (time.process_time() - processor) / count]
        print(json.dumps(spent), flush=True)


def ask(process: subprocess.Popen[str], workload: str, count: int) -> list[float]:
    """Wake a process for one measurement."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.send_signal(signal.SIGCONT)
    process.stdin.write(json.dumps([workload, count]) + "\n")
    process.stdin.flush()
    spent: list[float] = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGSTOP)
    return spent


def measure(bundle: str, compared: list[Case], counts: Mapping[str, int], rounds: int) -> None:
    """Let all cases take their turns, and note in them what they took."""
    running: list[tuple[Case, subprocess.Popen[str]]] = []
    try:
        for case in compared:
            command = [sys.executable, __file__, bundle, "--serve", json.dumps([case.threads, dict(case.entries)])]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            running.append((case, process))
            assert process.stdout is not None
            if not process.stdout.readline():
                raise SystemExit(f"{case.name}: the process ended before the model was loaded")
            process.send_signal(signal.SIGSTOP)
        for number in range(rounds + 1):
            for workload in WORKLOADS:
                for case, process in random.sample(running, len(running)):
                    seconds, processor = ask(process, workload, counts[workload])
                    if number:  # the first round warms up
                        case.seconds[workload].append(seconds)
                        case.processor[workload].append(processor)
    finally:
        for _, process in running:
            process.kill()  # also ends one that is stopped
            process.communicate()


def table(compared: list[Case]) -> str:
    """Markdown: a row a case."""
    heading = ["", *(f"{name}{part}" for name in WORKLOADS for part in (" tokens/s", "", " processor time"))]
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    first = compared[0]
    for case in compared:
        row = [case.name]
        for workload in WORKLOADS:
            speed = [a / b for a, b in zip(first.seconds[workload], case.seconds[workload], strict=True)]
            cost = [b / a for a, b in zip(first.processor[workload], case.processor[workload], strict=True)]
            row += [f"{1 / median(case.seconds[workload]):,.0f}", f"{median(speed):.2f} ×", f"{median(cost):.2f} ×"]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="the most; otherwise two")
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.bundle, *json.loads(options.serve))
        return
    compared = cases(options.threads)
    counts = {"decode": options.new_tokens, "prefill": options.prompt_tokens}
    measure(options.bundle, compared, counts, options.rounds)
    print(table(compared))


if __name__ == "__main__":
    main()
