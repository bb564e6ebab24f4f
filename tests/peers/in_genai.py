"""Runs in the environment of onnxruntime-genai: greedy tokens of its Generator. No part of onnxgpt here.

in_genai.py TEXT NEW DIR …   one JSON line for each folder
"""

from __future__ import annotations

import json
import sys

import onnxruntime_genai


def generate(text: str, new_tokens: str, *folders: str) -> None:
    """One row, greedy, with genai's own tokenizer over the files that lie there."""
    for folder in folders:
        model = onnxruntime_genai.Model(folder)
        ids = onnxruntime_genai.Tokenizer(model).encode(text)
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(do_sample=False, max_length=len(ids) + int(new_tokens))
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        found = generator.get_sequence(0).tolist()
        print(json.dumps({"prompt": ids.tolist(), "new": found[len(ids) :]}), flush=True)


if __name__ == "__main__":
    generate(*sys.argv[1:])
