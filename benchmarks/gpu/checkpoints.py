"""Random checkpoints: what a model of some size costs to decode does not depend on what it has learnt."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers


@dataclass(frozen=True)
class Sizes:
    """Of a GPT-2."""

    width: int
    layers: int
    heads: int
    vocabulary: int = 50257
    context: int = 1024


XL = Sizes(width=1600, layers=48, heads=25)  # GPT-2's largest, 1.56 billion parameters
TINY = Sizes(width=64, layers=2, heads=4, vocabulary=4096, context=320)
_TOKENIZER = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint" / "tokenizer.json"


def write_random_gpt2(directory: Path, sizes: Sizes) -> Path:
    """A GPT-2 with random weights in float16, as transformers saves one; its 4,096 first tokens are the fairytale's."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=sizes.width,
        n_layer=sizes.layers,
        n_head=sizes.heads,
        n_positions=sizes.context,
        vocab_size=sizes.vocabulary,
        bos_token_id=0,
        eos_token_id=0,
    )
    transformers.GPT2LMHeadModel(config).half().save_pretrained(directory)
    shutil.copyfile(_TOKENIZER, directory / "tokenizer.json")
    return directory
