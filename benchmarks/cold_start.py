"""Time to the first printed token of a fresh process, beside a process that only imports the libraries.

The two take turns; medians. The rest of the first-token time is the command line, the bundle and the first steps.

    python benchmarks/cold_start.py --rounds 15
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

LIBRARIES = "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; import numpy, tokenizers, onnxruntime; print('x')"


def seconds_to_first_byte(*command: str) -> float:
    """From starting a process to its first output."""
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 1)
        seconds = time.perf_counter() - started
        process.kill()
    return seconds


def main() -> None:
    """Measure and print JSON, in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fairytale")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    cases = {
        "python": ("-c", "print('x')"),
        "libraries": ("-c", LIBRARIES),
        "first token": ("-m", "onnxgpt", "generate", "Once upon a time", "--model", options.model),
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, command in cases.items():
            found[name].append(seconds_to_first_byte(*command))
    print(json.dumps({name: round(median(values) * 1e3, 1) for name, values in found.items()}, indent=1))


if __name__ == "__main__":
    main()
