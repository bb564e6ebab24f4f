"""The decoding loop's own cost: this runtime's loop and a bare ONNX Runtime loop, taking turns step by step.

Both run the same graph in the same session, greedily, from the same prompt, so they generate the same tokens. The bare
loop binds everything once but the mask, runs, and takes the argmax: what anyone would write for this graph. The
runtime's loop is `Model.stream` as users call it: log-probability, text and end conditions included. A step's own cost
is its time less the time inside ONNX Runtime's run; medians over all steps.

    python benchmarks/decoding_loop.py smol --new-tokens 128 --rounds 5
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

import onnxgpt
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.graph_spec import GraphSpec


class TimedSession:
    """An ONNX Runtime session that notes how long its last run took."""

    def __init__(self, session: Any):
        self._session = session
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, *options: Any) -> None:
        """Run, and note the seconds."""
        started = time.perf_counter()
        self._session.run_with_iobinding(binding, *options)
        self.seconds = time.perf_counter() - started


def bare_loop(session: Any, spec: GraphSpec, prompt: list[int], new_tokens: int) -> Iterator[int]:
    """Greedy token ids from bound buffers and nothing else."""
    capacity = len(prompt) + new_tokens
    binding = session.io_binding()
    held = []

    def bind(name: str, array: Any, *, output: str | None = None) -> None:
        value = ort.OrtValue.ortvalue_from_numpy(array)
        if name:
            binding.bind_ortvalue_input(name, value)
        if output:
            binding.bind_ortvalue_output(output, value)
        held.append(value)

    for index, (past, present) in enumerate(zip(spec.past_names, spec.present_names, strict=True)):
        heads, size = spec.layout.layers[index // 2]
        bind(past, np.zeros((1, heads, capacity, size), spec.layout.dtype), output=present)
    ones = np.ones((1, capacity), np.int64)
    logits = np.empty((1, 1, spec.vocab_size), spec.logits_dtype)
    bind("num_logits_to_keep", np.array([1], np.int64))
    bind("", logits, output="logits")
    bind("input_ids", np.array([prompt], np.int64))
    bind("attention_mask", ones[:, : len(prompt)])
    session.run_with_iobinding(binding)
    token = np.empty((1, 1), np.int64)
    bind("input_ids", token)
    for length in range(len(prompt) + 1, capacity + 1):
        token[0, 0] = logits[0, 0].argmax()
        yield int(token[0, 0])
        bind("attention_mask", ones[:, :length])
        session.run_with_iobinding(binding)


def measure(bundle: str, prompt_tokens: int, new_tokens: int, rounds: int, threads: int | None) -> dict[str, Any]:
    """Medians in microseconds, and the shares that follow from them."""
    model = onnxgpt.load(bundle, threads=threads)
    timed = TimedSession(model.session.runs.session)
    model.session.runs.session = timed
    prompt = [index * 7919 % model.session.spec.vocab_size for index in range(prompt_tokens)]
    cases: dict[str, Callable[[], Iterator[Any]]] = {
        "bare loop": lambda: bare_loop(timed, model.session.spec, prompt, new_tokens),
        "greedy": lambda: model.stream(prompt, do_sample=False, max_new_tokens=new_tokens, eos_token_id=()),
        "sampling": lambda: model.stream(
            prompt, do_sample=True, temperature=0.8, top_k=40, top_p=0.95, repetition_penalty=1.1, seed=7,
            max_new_tokens=new_tokens, eos_token_id=(),
        ),
    }  # fmt: skip
    totals: dict[str, list[float]] = {name: [] for name in cases}
    own: dict[str, list[float]] = {name: [] for name in cases}
    ids: dict[str, list[int]] = {}
    for _ in range(rounds):
        running = {name: start() for name, start in cases.items()}
        ids = {name: [_id(next(stream))] for name, stream in running.items()}  # the prompt is read here
        for step in range(new_tokens - 1):
            for name in list(cases) if step % 2 else reversed(list(cases)):
                started = time.perf_counter()
                ids[name].append(_id(next(running[name])))
                seconds = time.perf_counter() - started
                totals[name].append(seconds)
                own[name].append(seconds - timed.seconds)
    assert ids["bare loop"] == ids["greedy"], "the two loops generated different tokens"
    return {
        "bundle": model.bundle.manifest.name,
        "machine": platform.processor() or platform.machine(),
        "threads": threads,
        "onnxruntime": ort.__version__,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "rounds": rounds,
        "step_microseconds": {name: round(median(totals[name]) * 1e6, 1) for name in cases},
        "own_microseconds": {name: round(median(own[name]) * 1e6, 1) for name in cases},
        "own_share": {name: round(median(own[name]) / median(totals[name]), 4) for name in cases},
        "greedy_over_bare": round(median(totals["greedy"]) / median(totals["bare loop"]), 4),
    }


def _id(event: Any) -> int:
    return event if isinstance(event, int) else int(event.id)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    result = measure(options.bundle, options.prompt_tokens, options.new_tokens, options.rounds, options.threads)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
