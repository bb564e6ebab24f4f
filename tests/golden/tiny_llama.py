"""A tiny LLaMA with random weights that no library's version changes, for golden values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

VOCABULARY = 64
END = 2
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": END,
}


def tiny_llama() -> transformers.LlamaForCausalLM:
    """Every weight from NumPy's legacy generator, whose numbers are frozen, in the order of the weights' names."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).eval()
    random = np.random.RandomState(4)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            scale = 0.35 if weight.dim() > 1 else 0.1
            values = random.standard_normal(tuple(weight.shape)) * scale + (weight.dim() == 1)
            weight.copy_(torch.from_numpy(values.astype(np.float32)))
        model.lm_head.weight[END] *= 2  # so that some texts end early
    return model


def write_tiny_llama(directory: Path) -> Path:
    """The checkpoint, with a tokenizer whose words are w0 to w63."""
    tiny_llama().save_pretrained(directory)
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    return directory
