"""A tiny GPT as Megatron-LM saves it, with random weights that no library's version changes, for golden values."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch

HIDDEN, INNER, LAYERS, HEADS, CONTEXT, VOCABULARY = 24, 40, 2, 3, 32, 64
PROMPT = [1, 7, 33, 60, 12, 12, 5, 48, 21, 3, 59, 30]
ARGUMENTS: dict[str, Any] = {
    "num_layers": LAYERS,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "ffn_hidden_size": INNER,
    "max_position_embeddings": CONTEXT,
    "padded_vocab_size": VOCABULARY,
    "orig_vocab_size": None,
    "layernorm_epsilon": 1e-5,
    "bias_gelu_fusion": True,
    "openai_gelu": False,
    "apply_query_key_layer_scaling": True,
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "params_dtype": torch.float16,
    "lr": 0.00015,
    "data_path": ["corpus_text_document"],
}


def tiny_megatron(version: float | None, *, body: str = "encoder", attention: str = "self_attention") -> dict[str, Any]:
    """The content of a `model_optim_rng.pt`. The numbers are those of any version: the version says what they mean."""
    random = np.random.RandomState(6)

    def values(*shape: int, around: float = 0.0) -> torch.Tensor:
        scale = 0.3 if len(shape) > 1 else 0.1
        return torch.from_numpy((random.standard_normal(shape) * scale + around).astype(np.float32))

    layers: dict[str, torch.Tensor] = {}
    for layer in range(LAYERS):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            layers[f"layers.{layer}.{norm}.weight"] = values(HIDDEN, around=1)
            layers[f"layers.{layer}.{norm}.bias"] = values(HIDDEN)
        for name, (rows, columns) in {
            f"{attention}.query_key_value": (3 * HIDDEN, HIDDEN),
            f"{attention}.dense": (HIDDEN, HIDDEN),
            "mlp.dense_h_to_4h": (INNER, HIDDEN),
            "mlp.dense_4h_to_h": (HIDDEN, INNER),
        }.items():
            layers[f"layers.{layer}.{name}.weight"] = values(rows, columns)
            layers[f"layers.{layer}.{name}.bias"] = values(rows)
    layers["final_layernorm.weight"] = values(HIDDEN, around=1)
    layers["final_layernorm.bias"] = values(HIDDEN)
    embedding = {
        "word_embeddings": {"weight": values(VOCABULARY, HIDDEN)},
        "position_embeddings": {"weight": values(CONTEXT, HIDDEN)},
    }
    content: dict[str, Any] = {
        "args": Namespace(**ARGUMENTS),
        "iteration": 100,
        "model": {"language_model": {"embedding": embedding, body: layers}},
    }
    return content if version is None else content | {"checkpoint_version": version}


def write_tiny_megatron(directory: Path, version: float | None, **names: str) -> Path:
    """The directory of one iteration, as Megatron-LM names it."""
    (directory / "mp_rank_00").mkdir(parents=True)
    torch.save(tiny_megatron(version, **names), directory / "mp_rank_00" / "model_optim_rng.pt")
    return directory
