"""Make speculation.json: texts of transformers' prompt lookup and assisted generation, without sampling.

python tests/golden/make_speculation.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer

HERE = Path(__file__).parent
CHECKPOINT = HERE.parents[1] / "models" / "fairytale" / "checkpoint"
TOKENIZER = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
WOLF, ONCE, KING = (
    "'Who is there?' said the wolf. " * 12,
    "Once upon a time there was",
    "The king said to his daughter,",
)
COMMA, STOP = (TOKENIZER.encode("a" + mark).ids[-1] for mark in ",.")

# Prompts and options, which are transformers' and ours alike; "assistant" stands for the model itself.
CASES: list[tuple[str, dict[str, Any]]] = [
    (WOLF, {"prompt_lookup_num_tokens": 10, "max_new_tokens": 100}),
    (ONCE, {"prompt_lookup_num_tokens": 10, "max_new_tokens": 100}),
    (KING, {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1, "max_new_tokens": 80}),
    (WOLF, {"prompt_lookup_num_tokens": 5, "max_matching_ngram_size": 4, "max_new_tokens": 51}),
    (WOLF, {"prompt_lookup_num_tokens": 10, "max_new_tokens": 80, "repetition_penalty": 1.15}),
    (ONCE, {"prompt_lookup_num_tokens": 10, "max_new_tokens": 80, "no_repeat_ngram_size": 4}),
    (WOLF, {"prompt_lookup_num_tokens": 10, "max_new_tokens": 80, "eos_token_id": [COMMA], "min_new_tokens": 12}),
    (ONCE, {"prompt_lookup_num_tokens": 10, "max_new_tokens": 80, "bad_words_ids": [[COMMA], [STOP]]}),
    (ONCE, {"assistant": True, "num_assistant_tokens": 5, "max_new_tokens": 80}),
    (KING, {"assistant": True, "num_assistant_tokens": 5, "max_new_tokens": 60, "repetition_penalty": 1.2}),
]


def main() -> None:
    model = transformers.GPT2LMHeadModel.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    twin = transformers.GPT2LMHeadModel.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    records = []
    for prompt, options in CASES:
        ids = TOKENIZER.encode(prompt).ids
        asked: dict[str, Any] = {name: value for name, value in options.items() if name != "assistant"}
        asked |= {"do_sample": False, "pad_token_id": 0}
        if "assistant" in options:
            twin.generation_config.num_assistant_tokens = asked.pop("num_assistant_tokens")
            asked["assistant_model"] = twin
        with torch.no_grad():
            found = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **asked)
        sequence = found[0, len(ids) :].tolist()
        records.append({"prompt": ids, "options": options, "sequence": sequence})
        print(len(records), options, len(sequence))
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n".join(json.dumps(record) for record in records)
    head = f'{{"made_by": "make_speculation.py", "versions": {json.dumps(versions)}, "cases": [\n'
    (HERE / "speculation.json").write_text(f"{head}{lines}\n]}}\n")


if __name__ == "__main__":
    main()
