"""Make beams.json (transformers 5) or, with --groups, beam_groups.json (transformers 4.50, the last with group beams).

python tests/golden/make_beams.py
python tests/golden/make_beams.py --groups
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from tiny_llama import tiny_llama

HERE = Path(__file__).parent
CHECKPOINT = HERE.parents[1] / "models" / "fairytale" / "checkpoint"
TOKENIZER = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
ONCE, KING, FOREST = "Once upon a time", "The king said to his daughter,", "In the middle of the forest stood"
COMMA, STOP = (TOKENIZER.encode("a" + mark).ids[-1] for mark in ",.")
THE, AND, WAS = (TOKENIZER.encode("a" + word).ids[-1] for word in (" the", " and", " was"))
W1, W2, W3 = [5, 6, 7], [20, 21, 3, 44, 10], [33]  # prompts of the tiny LLaMA

# Model, prompts, options. The options are transformers' and ours alike.
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("fairytale", [ONCE], {"num_beams": 2, "max_new_tokens": 40}),
    ("fairytale", [KING], {"num_beams": 4, "max_new_tokens": 40, "num_return_sequences": 4}),
    ("fairytale", [FOREST], {"num_beams": 8, "max_new_tokens": 24, "num_return_sequences": 8}),
    ("fairytale", [ONCE], {"num_beams": 3, "max_length": 30}),
    ("fairytale", [ONCE], {"num_beams": 4, "max_new_tokens": 30, "eos_token_id": STOP, "num_return_sequences": 4}),
    ("fairytale", [KING], {"num_beams": 4, "max_new_tokens": 30, "eos_token_id": STOP, "early_stopping": True}),
    ("fairytale", [KING], {"num_beams": 4, "max_new_tokens": 30, "eos_token_id": STOP, "early_stopping": "never"}),
    ("fairytale", [FOREST], {"num_beams": 3, "max_new_tokens": 30, "eos_token_id": STOP, "length_penalty": 0.0}),
    ("fairytale", [FOREST], {"num_beams": 3, "max_new_tokens": 30, "eos_token_id": STOP, "length_penalty": 2.0}),
    ("fairytale", [ONCE], {"num_beams": 3, "max_new_tokens": 30, "eos_token_id": STOP, "length_penalty": -1.0}),
    (
        "fairytale",
        [ONCE, KING],
        {"num_beams": 3, "max_new_tokens": 40, "eos_token_id": [STOP, COMMA], "length_penalty": 0.5}
        | {"early_stopping": "never", "num_return_sequences": 3},
    ),
    (
        "fairytale",
        [KING],
        {"num_beams": 5, "max_new_tokens": 30, "eos_token_id": [STOP, COMMA, THE], "num_return_sequences": 5},
    ),
    ("fairytale", [ONCE, KING, FOREST], {"num_beams": 4, "max_new_tokens": 30, "num_return_sequences": 2}),
    ("fairytale", [ONCE, FOREST], {"num_beams": 4, "max_new_tokens": 24, "eos_token_id": STOP, "early_stopping": True}),
    (
        "fairytale",
        [ONCE],
        {"max_length": 100, "num_beams": 5, "num_return_sequences": 3, "no_repeat_ngram_size": 2}
        | {"early_stopping": True},
    ),
    ("fairytale", [KING], {"num_beams": 4, "max_new_tokens": 40, "repetition_penalty": 1.3}),
    ("fairytale", [ONCE], {"num_beams": 4, "max_new_tokens": 40, "no_repeat_ngram_size": 3, "repetition_penalty": 1.1}),
    ("fairytale", [KING], {"num_beams": 4, "max_new_tokens": 30, "eos_token_id": STOP, "min_new_tokens": 12}),
    ("fairytale", [ONCE], {"num_beams": 4, "max_new_tokens": 30, "bad_words_ids": [[THE], [AND, WAS], [COMMA]]}),
    ("fairytale", [ONCE], {"num_beams": 3, "max_new_tokens": 30, "suppress_tokens": [THE, COMMA]}),
    ("fairytale", [FOREST], {"num_beams": 3, "max_new_tokens": 20, "forced_eos_token_id": STOP, "eos_token_id": STOP}),
    (
        "fairytale",
        [KING],
        {"num_beams": 4, "max_new_tokens": 30, "eos_token_id": STOP, "num_return_sequences": 4}
        | {"exponential_decay_length_penalty": [5, 1.1]},
    ),
    ("fairytale", [ONCE], {"num_beams": 4, "max_new_tokens": 30, "stop_strings": [" who"], "num_return_sequences": 4}),
    (
        "fairytale",
        [KING],
        {"num_beams": 3, "max_new_tokens": 40, "stop_strings": ["ing ", ". "], "eos_token_id": COMMA}
        | {"num_return_sequences": 3},
    ),
    ("tiny llama", [W1], {"num_beams": 2, "max_new_tokens": 30}),
    ("tiny llama", [W2], {"num_beams": 4, "max_new_tokens": 40, "num_return_sequences": 4}),
    ("tiny llama", [W3], {"num_beams": 6, "max_new_tokens": 70, "num_return_sequences": 6}),
    ("tiny llama", [W1], {"num_beams": 4, "max_new_tokens": 40, "early_stopping": True, "num_return_sequences": 4}),
    ("tiny llama", [W1], {"num_beams": 4, "max_new_tokens": 40, "early_stopping": "never", "num_return_sequences": 4}),
    (
        "tiny llama",
        [W2],
        {"num_beams": 4, "max_new_tokens": 40, "early_stopping": "never", "length_penalty": 2.0}
        | {"num_return_sequences": 4},
    ),
    (
        "tiny llama",
        [W2],
        {"num_beams": 4, "max_new_tokens": 40, "early_stopping": "never", "length_penalty": -0.5}
        | {"num_return_sequences": 4},
    ),
    ("tiny llama", [W2], {"num_beams": 4, "max_new_tokens": 40, "length_penalty": 3.0, "num_return_sequences": 4}),
    ("tiny llama", [W1], {"num_beams": 3, "max_new_tokens": 40, "eos_token_id": [2, 9, 30], "num_return_sequences": 3}),
    ("tiny llama", [W1, W2, W3], {"num_beams": 4, "max_new_tokens": 30, "num_return_sequences": 4}),
    ("tiny llama", [W1, W2, W3], {"num_beams": 3, "max_new_tokens": 30, "early_stopping": True, "length_penalty": 0.3}),
    ("tiny llama", [W2], {"num_beams": 20, "max_new_tokens": 12, "num_return_sequences": 20}),
    ("tiny llama", [W2], {"num_beams": 4, "max_new_tokens": 30, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2}),
]

# Beam sampling. transformers draws with torch.multinomial; here it is given the draws of docs/random.md.
SAMPLED: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("fairytale", [ONCE], {"num_beams": 3, "max_new_tokens": 30, "seed": 7, "top_k": 0, "num_return_sequences": 3}),
    ("fairytale", [KING], {"num_beams": 4, "max_new_tokens": 30, "seed": 8, "top_k": 20, "temperature": 0.7}),
    (
        "fairytale",
        [KING],
        {"num_beams": 4, "max_new_tokens": 30, "seed": 2**40, "top_k": 50, "top_p": 0.99, "eos_token_id": [STOP]}
        | {"num_return_sequences": 4},
    ),
    (
        "fairytale",
        [FOREST],
        {"num_beams": 2, "max_new_tokens": 30, "seed": 1, "top_k": 50, "min_p": 0.01, "eos_token_id": STOP}
        | {"early_stopping": True, "repetition_penalty": 1.2, "num_return_sequences": 2},
    ),
    ("tiny llama", [W2], {"num_beams": 4, "max_new_tokens": 30, "seed": 3, "top_k": 0, "num_return_sequences": 4}),
]

GROUPS: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("fairytale", [ONCE], {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "max_new_tokens": 30}),
    (
        "fairytale",
        [KING],
        {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.5, "max_new_tokens": 30}
        | {"num_return_sequences": 6},
    ),
    (
        "fairytale",
        [KING],
        {"num_beams": 4, "num_beam_groups": 4, "diversity_penalty": 2.0, "max_new_tokens": 30}
        | {"num_return_sequences": 4, "eos_token_id": STOP},
    ),
    (
        "fairytale",
        [ONCE, FOREST],
        {"num_beams": 6, "num_beam_groups": 2, "diversity_penalty": 1.5, "max_new_tokens": 30}
        | {"num_return_sequences": 3, "eos_token_id": STOP, "early_stopping": True},
    ),
    (
        "fairytale",
        [FOREST],
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7, "max_new_tokens": 30}
        | {"num_return_sequences": 4, "eos_token_id": [STOP, COMMA], "early_stopping": "never", "length_penalty": 2.0},
    ),
    (
        "fairytale",
        [ONCE],
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "max_new_tokens": 30}
        | {"num_return_sequences": 4, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
    ),
    (
        "tiny llama",
        [W2],
        {"num_beams": 6, "num_beam_groups": 2, "diversity_penalty": 0.4, "max_new_tokens": 40}
        | {"num_return_sequences": 6},
    ),
    (
        "tiny llama",
        [W1, W3],
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.8, "max_new_tokens": 40}
        | {"num_return_sequences": 4, "length_penalty": 0.0},
    ),
    (
        "tiny llama",
        [W1],
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.3, "max_new_tokens": 40}
        | {"num_return_sequences": 4, "early_stopping": "never", "length_penalty": -0.5},
    ),
]


def uniform(seed: int, sequence: int, step: int) -> float:
    """The number of docs/random.md, written down a second time."""
    mask = 0xFFFFFFFF
    keys = [seed & mask, seed >> 32]
    keys.append(keys[0] ^ keys[1] ^ 0x1BD11BDA)
    first, second = (step + keys[0]) & mask, (sequence + keys[1]) & mask
    for index in range(20):
        first = (first + second) & mask
        turn = (13, 15, 26, 6, 17, 29, 16, 24)[index % 8]
        second = ((second << turn | second >> (32 - turn)) & mask) ^ first
        if index % 4 == 3:
            times = index // 4 + 1
            first = (first + keys[times % 3]) & mask
            second = (second + keys[(times + 1) % 3] + times) & mask
    return (first >> 8) / 2**24


class SpecifiedDraws:
    """Stands in for torch.multinomial: every draw takes its share of what is left, by the specified numbers."""

    def __init__(self, seed: int):
        self.seed = seed
        self.step = 0

    def __call__(self, probabilities: torch.Tensor, num_samples: int) -> torch.Tensor:
        left = probabilities[0].double().clone()
        drawn = []
        for draw in range(num_samples):
            totals = left.cumsum(0)
            number = uniform(self.seed, draw, self.step) * totals[-1]
            drawn.append(int((totals > number).nonzero()[0]))
            left[drawn[-1]] = 0
        self.step += 1
        return torch.tensor([drawn])


def generate(model: Any, prompts: list[list[int]], options: dict[str, Any]) -> tuple[list[list[int]], list[float]]:
    """The new tokens and the scores of every sequence that transformers finds; the prompts are padded on the left."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    options = {"do_sample": False} | options
    multinomial = torch.multinomial
    if "seed" in options:
        torch.multinomial = SpecifiedDraws(options.pop("seed"))
        options = {"temperature": 1.0} | options | {"do_sample": True}
    else:
        options |= {"temperature": 1.0, "top_k": 50}
    if "stop_strings" in options:
        options["tokenizer"] = transformers.PreTrainedTokenizerFast(tokenizer_file=str(CHECKPOINT / "tokenizer.json"))
    if "max_length" in options:
        options["max_new_tokens"] = options.pop("max_length") - longest
    if "exponential_decay_length_penalty" in options:
        options["exponential_decay_length_penalty"] = tuple(options["exponential_decay_length_penalty"])
    end = options.get("eos_token_id", model.config.eos_token_id)
    padding = end[0] if isinstance(end, list) else end
    try:
        with torch.no_grad():
            found = model.generate(
                ids,
                attention_mask=mask,
                pad_token_id=padding,
                return_dict_in_generate=True,
                output_scores=True,
                **options,
            )
    finally:
        torch.multinomial = multinomial
    rows = found.sequences[:, longest:].tolist()
    if "num_beam_groups" in options:  # whose beam indices are a step too long where a text ends early
        ends = end if isinstance(end, list) else [end]
        lengths = [next((index + 1 for index, token in enumerate(row) if token in ends), len(row)) for row in rows]
    else:
        lengths = (found.beam_indices >= 0).sum(dim=1).tolist()
    return [row[:length] for row, length in zip(rows, lengths, strict=True)], found.sequences_scores.tolist()


def main() -> None:
    groups = "--groups" in sys.argv
    models = {
        "fairytale": transformers.GPT2LMHeadModel.from_pretrained(CHECKPOINT, torch_dtype=torch.float32).float().eval(),
        "tiny llama": tiny_llama(),
    }
    records = []
    for name, prompts, options in GROUPS if groups else CASES + SAMPLED:
        ids = [TOKENIZER.encode(prompt).ids if isinstance(prompt, str) else prompt for prompt in prompts]
        sequences, scores = generate(models[name], ids, dict(options))
        scores = [round(score, 6) for score in scores]
        records.append({"model": name, "prompts": ids, "options": options, "sequences": sequences, "scores": scores})
        print(len(records), name, options, [len(sequence) for sequence in sequences], scores[:2])
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n".join(json.dumps(record) for record in records)
    path = HERE / ("beam_groups.json" if groups else "beams.json")
    path.write_text(f'{{"made_by": "make_beams.py", "versions": {json.dumps(versions)}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
