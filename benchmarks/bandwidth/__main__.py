"""How near a bundle's decoding comes to the bound that memory sets: weights read per token over the read bandwidth.

    python benchmarks/bandwidth BUNDLE --threads 2 --rounds 5

Bandwidth test, plain steps and profiled steps take turns. The step's share of the bound is the bytes of all weights and
of the cache that it reads over the bandwidth, over the time of a step without the profiler. The products' share is the
same of their weights, twice: over the time that ONNX Runtime's profiler gives their kernels, which is too long, since a
profiled step is slower in all parts, and over their part of all kernels' time, taken of a step without the profiler.
Shares over 1 mean that a model is small enough for the processor's caches. Without BUNDLE the bandwidth alone is
measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from bandwidth.graph_bytes import PRODUCTS, step_bytes  # noqa: E402  # only now is the package found
from bandwidth.native import BandwidthError, ReadTest  # noqa: E402


def measure_bandwidth(threads: int, rounds: int) -> dict[str, Any]:
    """The test alone; bytes per second."""
    with ReadTest() as test:
        found = test.run(threads, passes=5 * rounds)
    return {"threads": threads, "instructions": found.instructions, "best": found.best, "median": found.typical}


def measure(name: str, threads: int, rounds: int, prompt_tokens: int, steps: int) -> dict[str, Any]:
    """Medians over the rounds; seconds, bytes, bytes per second, shares of 1."""
    from bandwidth.step_profile import open_session, profile_steps, step_seconds
    from onnxgpt.loading import find_bundle
    from onnxgpt.runtime.bundle import Bundle
    from onnxgpt.runtime.engine import ort

    bundle = Bundle.open(find_bundle(name))
    read = step_bytes(bundle.graph_path)
    session = open_session(bundle, threads)
    prompt = [index * 7919 % session.spec.vocab_size for index in range(prompt_tokens)]
    context = prompt_tokens + steps // 2  # of the middle step, whose cache is read
    cache_bytes = session.spec.layout.bytes_per_token() * context
    bandwidths, plain, whole_runs = [], [], []
    operators: dict[str, list[float]] = defaultdict(list)
    with ReadTest() as test:
        for _ in range(rounds):
            found = test.run(threads)
            bandwidths.append(found.typical)
            plain.append(median(step_seconds(session, prompt, steps)))
            profile = profile_steps(bundle, threads, prompt, steps)
            whole_runs.append(profile.run)
            for operator, seconds in profile.operators.items():
                operators[operator].append(seconds)
    bandwidth = median(bandwidths)
    per_operator = {operator: median(seconds) for operator, seconds in operators.items()}
    products = sum(seconds for operator, seconds in per_operator.items() if operator in PRODUCTS)
    step = median(plain)
    unprofiled_products = step * products / sum(per_operator.values())
    return {
        "bundle": bundle.manifest.name,
        "onnxruntime": ort.__version__,
        "threads": threads,
        "rounds": rounds,
        "context": context,
        "instructions": found.instructions,
        "bandwidth_bytes_per_second": bandwidth,
        "bandwidth_range": [min(bandwidths), max(bandwidths)],
        "product_bytes_per_token": read.products,
        "weight_bytes_per_token": read.all,
        "cache_bytes_per_token": cache_bytes,
        "step_seconds": step,
        "tokens_per_second": 1 / step,
        "bound_tokens_per_second": bandwidth / (read.all + cache_bytes),
        "products_seconds": unprofiled_products,
        "products_share_of_bound": read.products / bandwidth / unprofiled_products if products else None,
        "profiled_products_seconds": products,
        "profiled_products_share_of_bound": read.products / bandwidth / products if products else None,
        "step_share_of_bound": (read.all + cache_bytes) / bandwidth / step,
        "profiled_run_seconds": median(whole_runs),
        "operator_seconds": per_operator,
        "outside_kernels_seconds": median(whole_runs) - sum(per_operator.values()),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", help="a directory or a catalogue name")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=64)
    options = parser.parse_args()
    try:
        if options.bundle is None:
            result = measure_bandwidth(options.threads, options.rounds)
        else:
            result = measure(options.bundle, options.threads, options.rounds, options.prompt_tokens, options.steps)
    except BandwidthError as error:
        raise SystemExit(f"bandwidth: {error}") from error
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
