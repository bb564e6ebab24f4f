"""A tiny GPT-2 with random weights that no library's version changes, for golden values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny_gpt2() -> transformers.GPT2LMHeadModel:
    """Every weight from NumPy's legacy generator, whose numbers are frozen, in the order of the weights' names."""
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES)).eval()
    random = np.random.RandomState(5)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            scale = 0.3 if weight.dim() > 1 else 0.1
            neutral = name.endswith("weight") and weight.dim() == 1
            values = random.standard_normal(tuple(weight.shape)) * scale + neutral
            weight.copy_(torch.from_numpy(values.astype(np.float32)))
    return model
