"""Where a decoding step's time goes, operator by operator, from ONNX Runtime's own profile."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.graph_spec import read_spec
from onnxgpt.runtime.memory import MemoryBudget
from onnxgpt.runtime.session import Session


@dataclass(frozen=True)
class Profile:
    """Median seconds per step: of every operator's kernels, and of the session's whole run (profiling included)."""

    operators: dict[str, float]
    run: float


def open_session(bundle: Bundle, threads: int, profile_prefix: str | None = None) -> Session:
    """A bundle's session; with a prefix, one that writes a profile when told to end it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    bare = ort.InferenceSession(str(bundle.graph_path), options, providers=["CPUExecutionProvider"])
    shares = bundle.manifest.graph.shares_cache_buffer
    return Session(bare, read_spec(bare), shares_cache_buffer=shares, budget=MemoryBudget())


def step_seconds(session: Session, prompt: list[int], steps: int) -> list[float]:
    """Seconds of every single step after a prompt, greedily; the first few, which warm up, are left out."""
    warm_up = 4
    length = len(prompt) + steps + warm_up
    seconds = []
    with closing(session.new_cache(capacity=length, limit=length)) as cache:
        logits = session.step(np.array([prompt], np.int64), cache)
        for _ in range(steps + warm_up):
            ids = logits[:, -1:].argmax(axis=-1)
            started = time.perf_counter()
            logits = session.step(ids, cache)
            seconds.append(time.perf_counter() - started)
    return seconds[warm_up:]


def profile_steps(bundle: Bundle, threads: int, prompt: list[int], steps: int) -> Profile:
    """Run the steps under ONNX Runtime's profiler."""
    with tempfile.TemporaryDirectory() as directory:
        session = open_session(bundle, threads, str(Path(directory) / "profile"))
        step_seconds(session, prompt, steps)
        path = session._session.end_profiling()
        events = json.loads(Path(path).read_text(encoding="utf-8"))
    return read_profile(events, steps)


def read_profile(events: list[dict[str, Any]], steps: int) -> Profile:
    """The last `steps` runs of a profile's events (Chrome's trace format; times in microseconds)."""
    runs = sorted((event for event in events if event.get("name") == "model_run"), key=lambda event: event["ts"])
    chosen = runs[-steps:]
    kernels = [event for event in events if str(event.get("name", "")).endswith("_kernel_time")]
    per_run: list[Counter[str]] = []
    for run in chosen:
        start, end = run["ts"], run["ts"] + run["dur"]
        totals: Counter[str] = Counter()
        for event in kernels:
            if start <= event["ts"] < end:
                totals[event["args"]["op_name"]] += event["dur"]
        per_run.append(totals)
    names = {name for totals in per_run for name in totals}
    operators = {name: median(totals[name] for totals in per_run) / 1e6 for name in names}
    ordered = dict(sorted(operators.items(), key=lambda item: -item[1]))
    return Profile(ordered, median(run["dur"] for run in chosen) / 1e6)
