"""Make processors.json: processed distributions, and greedy texts of processed logits, from transformers.

python tests/golden/make_processors.py
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from processor_inputs import NAMES, inputs
from tiny_llama import tiny_llama

HERE = Path(__file__).parent
CHECKPOINT = HERE.parents[1] / "models" / "fairytale" / "checkpoint"
TOKENIZER = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
BASE: dict[str, Any] = {"do_sample": True, "top_k": 0, "eos_token_id": [3, 9], "max_length": 40}

FILTERS: list[dict[str, Any]] = [
    {"temperature": 0.3},
    {"temperature": 1.7},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 5000},
    {"top_p": 0.001},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"min_p": 0.05},
    {"min_p": 0.6},
    {"typical_p": 0.2},
    {"typical_p": 0.9},
    {"epsilon_cutoff": 0.01},
    {"epsilon_cutoff": 0.9},
    {"eta_cutoff": 0.002},
    {"eta_cutoff": 0.3},
    {"temperature": 0.7, "top_k": 9, "top_p": 0.8},
    {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
    {"top_k": 20, "typical_p": 0.6, "epsilon_cutoff": 0.001, "eta_cutoff": 0.001},
    {"top_p": 0.97, "min_p": 0.01, "typical_p": 0.95, "temperature": 0.9},
]
OTHERS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"bad_words_ids": [[5], [9], [4, 6], [6, 4, 7], [8, 8]]},
    {"suppress_tokens": [0, 5, 63]},
    {"begin_suppress_tokens": [1, 2]},
    {"sequence_bias": [[[5], -2.5], [[4, 6], 3.0], [[1, 4, 6], -1.0], [[7], 1.5], [[4, 7], 0.5]]},
    {"min_length": 16},
    {"min_length": 30},
    {"min_new_tokens": 4},
    {"min_new_tokens": 10},
    {"exponential_decay_length_penalty": [1, 1.4]},
    {"exponential_decay_length_penalty": [20, 1.4]},
    {"forced_eos_token_id": 6, "max_length": 16},
    {"forced_eos_token_id": [6, 8], "max_length": 16, "exponential_decay_length_penalty": [2, 2.0]},
    {
        "sequence_bias": [[[5], -2.0], [[4, 6], 4.0]],
        "repetition_penalty": 1.5,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[11], [6, 12]],
        "min_new_tokens": 20,
        "suppress_tokens": [13],
        "temperature": 0.8,
        "top_k": 12,
        "top_p": 0.9,
    },
    {"repetition_penalty": 1.1, "exponential_decay_length_penalty": [0, 1.3], "min_p": 0.03, "typical_p": 0.9},
]
# On a whole vocabulary: partitions and short lists, where the little ones above are sorted.
WIDE: list[dict[str, Any]] = [
    {"top_k": 50},
    {"top_p": 0.6},
    {"typical_p": 0.5},
    {"top_k": 100, "top_p": 0.9, "temperature": 0.8, "repetition_penalty": 1.1},
    {"min_p": 0.05},
    {"epsilon_cutoff": 0.002},
    {"eta_cutoff": 0.001},
]

ONCE, KING, FOREST = "Once upon a time", "The king said to his daughter,", "In the middle of the forest stood"
COMMA, STOP = (TOKENIZER.encode("a" + mark).ids[-1] for mark in ",.")
THE, AND, WAS = (TOKENIZER.encode("a" + word).ids[-1] for word in (" the", " and", " was"))
W1, W2, W3 = [5, 6, 7], [20, 21, 3, 44, 10], [33]
EACH: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.9, "max_new_tokens": 15},
    {"no_repeat_ngram_size": 1, "max_new_tokens": 25},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 4},
    {"exponential_decay_length_penalty": [5, 1.2]},
    {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "max_length": 36},
]
TEXTS: list[tuple[str, Any, dict[str, Any]]] = [
    *(("fairytale", ONCE, options | {"eos_token_id": [STOP]}) for options in EACH),
    *(("tiny llama", W1, options) for options in EACH),
    ("fairytale", KING, {}),
    ("fairytale", KING, {"min_new_tokens": 20, "eos_token_id": [STOP, COMMA]}),
    ("fairytale", KING, {"min_length": 18, "eos_token_id": [STOP, COMMA]}),
    ("fairytale", KING, {"bad_words_ids": [[THE], [COMMA, AND], [AND, WAS]]}),
    ("fairytale", FOREST, {"suppress_tokens": [THE, COMMA, STOP]}),
    ("fairytale", FOREST, {"begin_suppress_tokens": [THE, COMMA, AND]}),
    ("fairytale", FOREST, {"sequence_bias": [[[THE], -3.0], [[COMMA, AND], 4.0], [[WAS], 1.5]]}),
    ("fairytale", ONCE, {"forced_eos_token_id": STOP, "max_new_tokens": 9}),
    ("fairytale", KING, {"forced_eos_token_id": [STOP, COMMA], "max_length": 20, "repetition_penalty": 1.1}),
    ("fairytale", [THE], {"forced_bos_token_id": WAS, "begin_suppress_tokens": [THE]}),
    (
        "fairytale",
        KING,
        {
            "repetition_penalty": 1.15,
            "no_repeat_ngram_size": 3,
            "bad_words_ids": [[AND]],
            "suppress_tokens": [COMMA],
            "sequence_bias": [[[WAS], 2.0]],
            "min_new_tokens": 12,
            "eos_token_id": [STOP],
            "exponential_decay_length_penalty": [10, 1.1],
        },
    ),
    ("tiny llama", W2, {}),
    ("tiny llama", W2, {"min_new_tokens": 15, "eos_token_id": [2, 9, 30]}),
    ("tiny llama", W2, {"min_length": 30}),
    ("tiny llama", W3, {"forced_bos_token_id": 12}),
    ("tiny llama", W3, {"forced_eos_token_id": 2, "max_length": 12, "min_length": 11}),
    ("tiny llama", W1, {"bad_words_ids": [[10, 11], [4], [30]], "suppress_tokens": [3, 5], "no_repeat_ngram_size": 2}),
    ("tiny llama", W1, {"sequence_bias": [[[7], 4.0], [[7, 7], -30.0], [[7, 8], 5.0]], "repetition_penalty": 1.1}),
    ("tiny llama", W3, {"begin_suppress_tokens": list(range(32)), "repetition_penalty": 2.0}),
    (
        "tiny llama",
        W2,
        {
            "repetition_penalty": 1.4,
            "exponential_decay_length_penalty": [2, 1.05],
            "min_new_tokens": 6,
            "bad_words_ids": [[2, 5], [12]],
            "forced_eos_token_id": [2],
            "max_new_tokens": 20,
        },
    ),
]


def for_transformers(options: dict[str, Any]) -> dict[str, Any]:
    options = dict(options)
    if "exponential_decay_length_penalty" in options:
        options["exponential_decay_length_penalty"] = tuple(options["exponential_decay_length_penalty"])
    return options


def processed(model: Any, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """A case of `inputs`, and the tokens that are left of each row with their probabilities."""
    token_ids, prompt_length, logits = inputs(name)
    config = transformers.GenerationConfig(**for_transformers(BASE | options))
    model._prepare_special_tokens(config, device="cpu")
    processors = model._get_logits_processor(
        config, input_ids_seq_length=prompt_length, device="cpu", logits_processor=transformers.LogitsProcessorList()
    )
    scores = processors(torch.from_numpy(token_ids), torch.from_numpy(logits.copy()))
    rows = []
    for row in torch.softmax(scores.double(), -1).numpy():
        left = np.flatnonzero(row)
        rows.append({"ids": left.tolist(), "probabilities": [float(f"{value:.8g}") for value in row[left]]})
    return {"inputs": name, "options": options, "rows": rows}


def text(model: Any, prompt: list[int], options: dict[str, Any]) -> list[int]:
    """The new tokens of a greedy text."""
    options = {"max_new_tokens": 40} | options
    if "max_length" in options:  # the checkpoint's own max_new_tokens would win over it
        options["max_new_tokens"] = options.pop("max_length") - len(prompt)
    ids = torch.tensor([prompt])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **options)
    return found[0, len(prompt) :].tolist()


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    fairytale = transformers.GPT2LMHeadModel.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    models = {"fairytale": fairytale, "tiny llama": tiny_llama()}
    records = [processed(fairytale, name, options) for name in NAMES for options in FILTERS + OTHERS]
    records += [processed(fairytale, "first", options) for options in OTHERS]
    records += [processed(fairytale, "wide", options) for options in WIDE]
    texts = []
    for name, prompt, options in TEXTS:
        ids = TOKENIZER.encode(prompt).ids if isinstance(prompt, str) else prompt
        tokens = text(models[name], ids, for_transformers(options))
        texts.append({"model": name, "prompt": ids, "options": options, "token_ids": tokens})
        print(len(texts), name, options, tokens)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = {key: ",\n".join(map(json.dumps, value)) for key, value in (("cases", records), ("texts", texts))}
    body = ",\n".join(f'"{key}": [\n{value}\n]' for key, value in lines.items())
    head = f'"made_by": "make_processors.py", "versions": {json.dumps(versions)}, "base": {json.dumps(BASE)}'
    (HERE / "processors.json").write_text(f"{{{head},\n{body}\n}}\n")


if __name__ == "__main__":
    main()
