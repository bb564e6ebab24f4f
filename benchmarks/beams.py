"""What beams cost: the time per token of a beam search against greedy decoding, taking turns in one run.

Both read the same prompt and generate the same number of tokens through `Model.generate`. The rows that the beams need
cost more than one by themselves: the third way is as many greedy rows as beams, in one batch.

    python benchmarks/beams.py smol-int8 --beams 4 --new-tokens 128 --rounds 5
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from statistics import median
from typing import Any

import onnxgpt

PROMPT = (
    "Once upon a time there lived, at the edge of a great forest, a poor woodcutter with his wife and two children. "
    "The boy's name was Hansel, and the girl's name was Gretel. They had little to bite and to break, and once, when "
    "there was great famine in the land,"
)


def measure(bundle: str, beams: int, new_tokens: int, rounds: int, threads: int | None) -> dict[str, Any]:
    """Medians over the rounds."""
    model = onnxgpt.load(bundle, threads=threads)
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": new_tokens, "eos_token_id": ()}
    ways: dict[str, Callable[[], list[Any]]] = {
        "greedy": lambda: model.generate(PROMPT, **options),
        "beams": lambda: model.generate(PROMPT, num_beams=beams, **options),
        "as many greedy rows": lambda: model.generate([PROMPT] * beams, **options),
    }
    milliseconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):  # the first warms up
        for way in list(ways) if turn % 2 else reversed(list(ways)):
            completion = ways[way]()[-1]
            if turn:
                milliseconds[way].append(1000 * completion.timings.decode_seconds / completion.completion_tokens)
    medians = {way: median(values) for way, values in milliseconds.items()}
    return {
        "bundle": model.bundle.manifest.name,
        "threads": threads,
        "beams": beams,
        "new_tokens": new_tokens,
        "rounds": rounds,
        "milliseconds_per_token": {way: round(value, 2) for way, value in medians.items()},
        "beams_over_greedy": round(medians["beams"] / medians["greedy"], 3),
        "rows_over_greedy": round(medians["as many greedy rows"] / medians["greedy"], 3),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    result = measure(options.bundle, options.beams, options.new_tokens, options.rounds, options.threads)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
