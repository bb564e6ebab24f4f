"""The throughput of a batch: unequal prompts in one call against one after the other, taking turns in one run.

Both generate the same number of tokens greedily from the same prompts through `Model.generate`, prompts read, texts and
log-probabilities made. What is compared are new tokens per second; the ratio of the steps alone, without the reading
of the prompts, is told too, since reading costs a batch as much as single prompts. Rows share the reading of weights,
but each reads its own keys and values: the longer the texts, the less a batch saves.

    python benchmarks/batch.py smol-int8 --rows 8 --longer 4 --new-tokens 64 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import onnxgpt


def measure(bundle: str, rows: int, longer: int, new_tokens: int, rounds: int, threads: int | None) -> dict[str, Any]:
    """Medians over the rounds."""
    model = onnxgpt.load(bundle, threads=threads)
    vocabulary = model.session.spec.vocab_size
    lengths = [8 + longer * index for index in range(rows)]
    prompts = [[(place * 7919 + row) % vocabulary for place in range(length)] for row, length in enumerate(lengths)]
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": new_tokens, "eos_token_id": ()}
    ways: dict[str, Callable[[], list[Any]]] = {
        "batch": lambda: model.generate(prompts, **options),
        "one by one": lambda: [model.generate(prompt, **options)[0] for prompt in prompts],
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    steps: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):  # the first warms up
        for way in list(ways) if turn % 2 else reversed(list(ways)):
            started = time.perf_counter()
            completions = ways[way]()
            taken = time.perf_counter() - started
            if turn:
                seconds[way].append(taken)
                steps[way].append(taken - sum(each.timings.prefill_seconds for each in completions))
    return {
        "bundle": model.bundle.manifest.name,
        "threads": threads,
        "prompt_tokens": lengths,
        "new_tokens": new_tokens,
        "rounds": rounds,
        "tokens_per_second": {way: round(rows * new_tokens / median(seconds[way]), 1) for way in ways},
        "batch_over_one_by_one": round(median(seconds["one by one"]) / median(seconds["batch"]), 3),
        "of_the_steps_alone": round(median(steps["one by one"]) / median(steps["batch"]), 3),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--longer", type=int, default=4, help="tokens that each prompt has more than the one before")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    result = measure(options.bundle, options.rows, options.longer, options.new_tokens, options.rounds, options.threads)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
