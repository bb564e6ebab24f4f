"""What a smaller key/value cache brings while decoding: bundles that differ in their cache, taking turns step by step.

Each bundle reads the same tokens up to the context asked for, then every round runs some single steps of each, in
random order, cutting its cache back to the context afterwards. Ratios are of the first bundle's time to another's,
round by round, so that a busy machine disturbs both alike; their median counts.

    onnxgpt quantize smol --out smol-int8
    onnxgpt quantize smol --kv-cache int8 --out smol-int8-cache8
    python benchmarks/kv_cache.py smol-int8 smol-int8-cache8 --context 1000 --threads 2
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from statistics import median
from typing import Any

import numpy as np

import onnxgpt
from onnxgpt.runtime.cache import AnyCache
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.session import Session

_CHUNK = 128  # tokens of the prompt at once


def prefilled(session: Session, context: int, room: int) -> AnyCache:
    """A cache that holds `context` tokens, with room for more."""
    cache = session.new_cache(capacity=context + room, limit=context + room)
    ids = np.array([[index * 7919 % session.spec.vocab_size for index in range(context)]], np.int64)
    for start in range(0, context, _CHUNK):
        session.step(ids[:, start : start + _CHUNK], cache)
    return cache


def step_seconds(session: Session, cache: AnyCache, steps: int) -> float:
    """Seconds of one single step at the cache's length, on average; the cache is as long afterwards as before."""
    context = cache.length
    token = np.array([[5]], np.int64)
    session.step(token, cache)  # whoever ran before has emptied the processor's caches
    started = time.perf_counter()
    for _ in range(steps):
        session.step(token, cache)
    seconds = (time.perf_counter() - started) / steps
    cache.truncate(context)
    return seconds


def measure(bundles: list[str], context: int, steps: int, rounds: int, threads: int | None) -> dict[str, Any]:
    """Medians of the steps' milliseconds, and of their ratios to the first bundle's."""
    models = [onnxgpt.load(bundle, threads=threads) for bundle in bundles]
    sessions = [model.session for model in models]
    caches = [prefilled(session, context, steps + 1) for session in sessions]
    order = list(range(len(bundles)))
    shuffle = random.Random(0).shuffle
    taken: list[list[float]] = [[] for _ in bundles]
    for _ in range(rounds):
        shuffle(order)
        for index in order:
            taken[index].append(step_seconds(sessions[index], caches[index], steps))
    return {
        "machine": platform.processor() or platform.machine(),
        "onnxruntime": ort.__version__,
        "threads": threads,
        "context": context,
        "rounds": rounds,
        "bundles": [
            {
                "bundle": bundle,
                "cache": str(session.spec.layout.dtype),
                "bytes_per_token": session.spec.layout.bytes_per_token(),
                "milliseconds": round(median(times) * 1e3, 3),
                "speed": round(median(first / own for first, own in zip(taken[0], times, strict=True)), 3),
            }
            for bundle, session, times in zip(bundles, sessions, taken, strict=True)
        ],
    }


def main() -> None:
    """Measure and print JSON; `speed` is as a multiple of the first bundle's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE")
    parser.add_argument("--context", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=5, help="steps per round and bundle")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    result = measure(options.bundles, options.context, options.steps, options.rounds, options.threads)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
