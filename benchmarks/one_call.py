"""One call of generate.onnx beside the stepwise runtime: speed and peak memory, as ratios.

Both generate the same tokens from the same prompt (it is checked), by turns in one process, each with a session of its
own; medians over all rounds. Peak memory is that of a process which does one of the two and nothing else (Linux): of
all that was in memory, and of what was private. What is not private are pages of files, which the system may drop; ONNX
Runtime lets go of the weights' file as it packs them, one by one in a plain graph, and at the end of loading where they
are used inside a loop.

    onnxgpt package smol-int8 --out packaged
    python benchmarks/one_call.py packaged --new-tokens 128 --rounds 5
    python benchmarks/one_call.py packaged --new-tokens 1000 --rounds 3 --sampled
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import onnxgpt
from onnxgpt.benchmarking import peak_memory
from onnxgpt.runtime.engine import ort

CASES = ("libraries", "stepwise", "one call")
SAMPLED = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1, "seed": 7}
Generate = Callable[[list[int], int], list[int]]


def stepwise(bundle: str, threads: int | None, is_sampled: bool) -> Generate:
    """The runtime's own loop."""
    model = onnxgpt.load(bundle, threads=threads)
    options: dict[str, Any] = SAMPLED | {"do_sample": True} if is_sampled else {"do_sample": False}

    def generate(prompt: list[int], new_tokens: int) -> list[int]:
        return list(model.generate(prompt, max_new_tokens=new_tokens, eos_token_id=(), **options)[0].token_ids)

    return generate


def one_call(bundle: str, threads: int | None, is_sampled: bool) -> Generate:
    """generate.onnx, run once for a text, as a client in another language would."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    options.intra_op_num_threads = threads or 0
    session = ort.InferenceSession(str(Path(bundle) / "generate.onnx"), options)
    settings: dict[str, Any] = SAMPLED if is_sampled else {"temperature": 0.0}
    types = {"temperature": np.float32, "top_p": np.float32, "repetition_penalty": np.float32}
    names = ("temperature", "top_k", "top_p", "repetition_penalty", "seed")
    # One that is empty is the bundle's own.
    fixed = {name: np.atleast_1d(np.array(settings.get(name, ()), types.get(name, np.int64))) for name in names}
    fixed["end_ids"] = np.array([-1])  # none

    def generate(prompt: list[int], new_tokens: int) -> list[int]:
        feeds = fixed | {"prompt_ids": np.array(prompt), "max_new_tokens": np.array([new_tokens])}
        ids: list[int] = session.run(["generated_ids"], feeds)[0].tolist()
        return ids

    return generate


WAYS = {"stepwise": stepwise, "one call": one_call}


def compare_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a token, and how fast one call is beside the stepwise loop."""
    ways = {name: make(options.bundle, options.threads, options.sampled) for name, make in WAYS.items()}
    prompt = prompt_of(options)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(options.rounds + 1):  # the first one warms up
        texts = []
        for name in ways if round_ % 2 else reversed(ways):
            started = time.perf_counter()
            texts.append(ways[name](prompt, options.new_tokens))
            if round_:
                seconds[name].append(time.perf_counter() - started)
        assert texts[0] == texts[1], "the two ways generated different tokens"
    times = {name: median(values) for name, values in seconds.items()}
    return {
        "milliseconds_per_token": {name: round(1e3 * value / options.new_tokens, 3) for name, value in times.items()},
        "speed_over_stepwise": round(times["stepwise"] / times["one call"], 4),
    }


def compare_memory() -> dict[str, Any]:
    """Peaks in bytes, and one call's beside the stepwise runtime's."""
    found: dict[str, dict[str, int]] = {}
    for case in CASES:
        command = [sys.executable, *sys.argv, "--case", case]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[case] = json.loads(done.stdout)
    ratios = {
        f"{kind}_over_stepwise": round(found["one call"][kind] / found["stepwise"][kind], 3)
        for kind in ("peak", "private_peak")
    }
    return {"bytes": found} | ratios


def prompt_of(options: argparse.Namespace) -> list[int]:
    """Some tokens of the vocabulary's lower half, always the same ones."""
    return [index * 7919 % 2000 for index in range(options.prompt_tokens)]


class PrivatePeak(threading.Thread):
    """Looks every few milliseconds at how much of this process's memory is no file's: no peak of that is kept."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._done = threading.Event()

    def run(self) -> None:
        """Look until it is told to end."""
        while not self._done.wait(0.005):
            status = Path("/proc/self/status").read_text(encoding="ascii")
            sizes = [line.split()[1] for line in status.splitlines() if line.startswith(("RssAnon:", "RssShmem:"))]
            self.bytes = max(self.bytes, 1024 * sum(map(int, sizes)))

    def end(self) -> int:
        """The most bytes there were."""
        self._done.set()
        self.join()
        return self.bytes


def run_case(options: argparse.Namespace) -> None:
    """Do one thing in this process, and print its peaks in bytes."""
    private = PrivatePeak()
    private.start()
    if options.case in WAYS:
        made = WAYS[options.case](options.bundle, options.threads, options.sampled)
        assert len(made(prompt_of(options), options.new_tokens)) == options.new_tokens
    else:
        time.sleep(0.1)
    print(json.dumps({"peak": peak_memory(), "private_peak": private.end()}))


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a directory that onnxgpt package made")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sampled", action="store_true", help="with top-k, top-p and a repetition penalty")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of speed")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        run_case(options)
        return
    about = {
        "bundle": onnxgpt.load(options.bundle).bundle.manifest.name,
        "machine": platform.processor() or platform.machine(),
        "onnxruntime": ort.__version__,
        **{name: getattr(options, name) for name in ("threads", "prompt_tokens", "new_tokens", "rounds", "sampled")},
    }
    print(json.dumps(about | (compare_memory() if options.memory else compare_speed(options)), indent=1))


if __name__ == "__main__":
    main()
