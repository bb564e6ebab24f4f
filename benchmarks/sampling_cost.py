"""What processors and sampling cost, as a share of the model's step: both timed in turns, on the model's own logits.

The sets of options take turns, each for some steps: it processes the step's logits and chooses the token, so that it
finds the processor's caches as a real loop leaves them (the same code run twice in a row costs a fifth). Medians.

    python benchmarks/sampling_cost.py smol-int8 --threads 2
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from statistics import median
from typing import Any

import numpy as np

import onnxgpt
from onnxgpt.runtime.config import GenerationConfig
from onnxgpt.runtime.logits import Rows, processors_for
from onnxgpt.runtime.sampling import Sampler

USUAL: dict[str, Any] = {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1}
ALONE: dict[str, Any] = {
    "top_k": 50,
    "top_p": 0.9,
    "min_p": 0.05,
    "typical_p": 0.9,
    "epsilon_cutoff": 3e-4,
    "eta_cutoff": 3e-4,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.2,
    "no_repeat_ngram_size": 3,
    "dry_multiplier": 0.8,
    "bad_words_ids": [[11, 12], [13]],
    "xtc_probability": 0.5,
}
SETS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "temperature, top_k, top_p, repetition_penalty": USUAL,
    "all of them": USUAL | ALONE,
    "nothing but the draw": {},
    **{f"{name} alone": {name: value} for name, value in ALONE.items()},
}


def measure(bundle: str, prompt_tokens: int, steps: int, rounds: int, threads: int | None) -> dict[str, Any]:
    """Median microseconds of a step and of each set of options."""
    model = onnxgpt.load(bundle, threads=threads)
    vocabulary = model.session.spec.vocab_size
    text = (model.tokenizer.encode("Once upon a time there was a king who had a daughter. ") * 1000)[:prompt_tokens]
    ids = np.zeros(prompt_tokens + steps, np.int64)
    ids[:prompt_tokens] = text
    pipelines = {
        name: processors_for(
            GenerationConfig(**({"do_sample": True, "top_k": 0} | options)),
            vocabulary_size=vocabulary,
            context_length=model.context_length,
            tokenizer=model.tokenizer,
            seed=1,
        )
        for name, options in SETS.items()
    }
    samplers = {name: Sampler(is_greedy=name == "greedy", seed=1) for name in SETS}
    seconds: dict[str, list[float]] = {name: [] for name in ("step", *SETS)}
    cache = model.session.new_cache(capacity=prompt_tokens + steps)
    logits = model.session.step(ids[None, :prompt_tokens], cache)[:, -1]
    for name in [name for _ in range(rounds) for name in SETS]:
        cache.truncate(prompt_tokens)
        for step in range(steps):
            length = prompt_tokens + step
            rows = [ids[:length]], [prompt_tokens], [0]
            started = time.perf_counter()
            scores, candidates = pipelines[name].shortlist(Rows(*rows), logits)
            ids[length] = samplers[name].choose(scores[0], step, None if candidates is None else candidates[0])
            chosen = time.perf_counter()
            logits = model.session.step(ids[None, length : length + 1], cache)[:, -1]
            seconds["step"].append(time.perf_counter() - chosen)
            seconds[name].append(chosen - started)
    cache.close()
    return {name: 1e6 * median(values) for name, values in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", default="fairytale")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    settings = vars(arguments) | {"machine": platform.machine(), "numpy": np.__version__}
    found = measure(arguments.bundle, arguments.prompt_tokens, arguments.steps, arguments.rounds, arguments.threads)
    if arguments.json:
        print(json.dumps({"settings": settings, "microseconds": found}, indent=1))
        return
    print(f"{'step':<48} {found['step']:8.0f} us")
    for name in SETS:
        print(f"{name:<48} {found[name]:8.0f} us {found[name] / found['step']:7.2%}")


if __name__ == "__main__":
    main()
