"""What prompt lookup brings: decoding with it against plain greedy decoding, taking turns in one run.

Two chat prompts: to correct a text, which repeats most of it (at most 256 new tokens), and a free text, too short to
repeat itself (128). What is compared is the time per new token, prompts not counted. Both ways must give the same
tokens, or the command fails and tells where they part. In full precision they do not. Where activations are rounded to
8 bits, a pass over several tokens rounds otherwise than single steps, and a text that is guessed may take another turn
where two tokens are about as likely.

    python benchmarks/prompt_lookup.py smol-int8 --candidates 10 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import sys
from statistics import median
from typing import Any

import onnxgpt
from onnxgpt.runtime.model import Model
from onnxgpt.runtime.results import Completion

EDITING = """Correct the spelling of this text and change nothing else:

The city council of Harwick voted on Tuesday to restore the old railway bridge over the river Lune. The bridge, which \
was built in 1887, has been closed since a storm damaged two of its pillars in 2016. The restoration will cost 2.4 \
million pounds and take about eighteen months. Half of the money comes from the national heritage fund, and the other \
half from the city. Mayor Ellen Pryce said that the bridge would be open to walkers and cyclists, but not to cars. \
Residents of the east bank, who now have to make a detour of three miles to reach the town centre, welcomed the \
decision. Some members of the council had argued that a new bridge would be cheaper, but an engineer's report found \
that the old pillars could carry the load for another hundred years."""
FREE = "Write a short story about a lighthouse keeper who finds a letter in a bottle."


def measure(bundle: str, candidates: int, rounds: int, threads: int | None) -> dict[str, Any]:
    """Medians over the rounds, for each prompt."""
    model = onnxgpt.load(bundle, threads=threads)
    return {
        "bundle": model.bundle.manifest.name,
        "threads": threads,
        "candidates": candidates,
        "rounds": rounds,
        "editing": _measure_prompt(model, EDITING, 256, candidates, rounds),
        "free text": _measure_prompt(model, FREE, 128, candidates, rounds),
    }


def _measure_prompt(model: Model, prompt: str, new_tokens: int, candidates: int, rounds: int) -> dict[str, Any]:
    ids = model.chat_prompt(prompt)
    greedy: dict[str, Any] = {"do_sample": False, "max_new_tokens": new_tokens}
    ways = {"greedy": greedy, "prompt lookup": greedy | {"prompt_lookup_num_tokens": candidates}}
    milliseconds: dict[str, list[float]] = {way: [] for way in ways}
    completions: dict[str, Completion] = {}
    for turn in range(rounds + 1):  # the first warms up
        for way in list(ways) if turn % 2 else reversed(list(ways)):
            completions[way] = model.generate(ids, **ways[way])[0]
            if turn:
                seconds = completions[way].timings.decode_seconds
                milliseconds[way].append(1000 * seconds / completions[way].completion_tokens)
    medians = {way: median(values) for way, values in milliseconds.items()}
    texts = [completions[way].token_ids for way in ways]
    return {
        "prompt_tokens": len(ids),
        "new_tokens": [len(text) for text in texts],
        "milliseconds_per_token": {way: round(value, 2) for way, value in medians.items()},
        "faster": round(medians["greedy"] / medians["prompt lookup"], 3),
        "passes": _count_passes(model, ids, ways["prompt lookup"]),
        "same_tokens": texts[0] == texts[1],
        "first_difference": next(
            (place for place, two in enumerate(zip(*texts, strict=False)) if two[0] != two[1]), None
        ),
    }


def _count_passes(model: Model, ids: list[int], options: dict[str, Any]) -> int:
    """Passes behind the prompt's, of one more generation that nobody times."""
    passes = 0
    step = model.session.step

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal passes
        passes += 1
        return step(*arguments, **named)

    model.session.step = counted  # type: ignore[method-assign]
    try:
        with model.stream(ids, **options) as tokens:
            next(tokens)
            passes = 0
            for _ in tokens:
                pass
    finally:
        model.session.step = step  # type: ignore[method-assign]
    return passes


def main() -> None:
    """Measure, print JSON, and fail where a text is another one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    result = measure(options.bundle, options.candidates, options.rounds, options.threads)
    print(json.dumps(result, indent=1))
    different = [name for name in ("editing", "free text") if not result[name]["same_tokens"]]
    if different:
        sys.exit(f"other tokens than greedy decoding's: {', '.join(different)}")


if __name__ == "__main__":
    main()
