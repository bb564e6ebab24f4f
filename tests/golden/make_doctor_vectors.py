"""Make doctor/fairytale.json: what PyTorch computes with the embedded model's checkpoint, for `onnxgpt doctor`.

Run `python tests/golden/make_doctor_vectors.py` in the repository's root. The model is transformers' GPT-2 in float32,
which shares nothing with this house. Texts end where a difference of the tolerance could change the next token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "models" / "fairytale" / "checkpoint"
OUT = ROOT / "doctor" / "fairytale.json"
TOLERANCE = 0.2  # in log-probability, of the model in 8 bits against float32; 0.12 was measured with AVX-512 VNNI
PROMPTS = (
    "Once upon a time there was a king who had three daughters, and the youngest was so beautiful that",
    "The wolf said to the little girl, “Good morning, where are you going so early?”",
    "Then the old woman gave him a golden apple and told him to",
)
GREEDY_PROMPTS = (  # after which the model is certain for long
    "'What do you know about this",
    "'I keep them to sell,' the Hatter added",
    "'I'm a poor man, your Majesty,'",
)
GREEDY_TOKENS = 16
LIKELIEST = 5
EVERY = 3


def compute() -> dict[str, Any]:
    """The vectors, in the layout of conforming.py's `logits` and `texts`."""
    import tokenizers
    import torch
    import transformers

    model = transformers.GPT2LMHeadModel.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    with torch.no_grad():
        logits = [_case(model, tokenizer.encode(prompt).ids) for prompt in PROMPTS]
        texts = [_text(model, tokenizer, prompt) for prompt in GREEDY_PROMPTS]
    return {
        "model": "fairytale",
        "source": "models/fairytale/checkpoint in float32, by GPT2LMHeadModel of transformers",
        "tolerance": TOLERANCE,
        "logits": logits,
        "texts": texts,
    }


def _text(model: Any, tokenizer: Any, prompt: str) -> dict[str, Any]:
    prompt_ids = tokenizer.encode(prompt).ids
    ids = _certain_greedy(model, prompt_ids)
    return {
        "prompt": prompt,
        "options": {"do_sample": False, "max_new_tokens": len(ids)},
        "ids": ids,
        "text": tokenizer.decode(prompt_ids + ids).removeprefix(prompt),
        "finish_reason": "length",
    }


def _case(model: Any, ids: list[int]) -> dict[str, Any]:
    import torch

    logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    positions = []
    for position in range(EVERY - 1, len(ids), EVERY):
        likeliest = logprobs[position].topk(LIKELIEST)
        positions.append(
            {
                "position": position,
                "tokens": likeliest.indices.tolist(),
                "logprobs": [round(value, 5) for value in likeliest.values.tolist()],
            }
        )
    return {"ids": ids, "positions": positions}


def _certain_greedy(model: Any, prompt: list[int]) -> list[int]:
    """Greedy tokens, up to the first that a difference of the tolerance could change."""
    import torch

    ids: list[int] = []
    while len(ids) < GREEDY_TOKENS:
        best = model(torch.tensor([prompt + ids])).logits[0, -1].log_softmax(-1).topk(2)
        if float(best.values[0] - best.values[1]) < TOLERANCE:
            break
        ids.append(int(best.indices[0]))
    return ids


if __name__ == "__main__":
    OUT.write_text(json.dumps(compute(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
