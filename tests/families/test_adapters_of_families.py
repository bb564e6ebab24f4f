"""LoRA on tensors that lie in their own ways, held against the same sums in the tensors that transformers stores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from onnxgpt.models.checkpoint import open_checkpoint

from .cases import all_cases
from .judging import save, tiny_model

# Family, what is changed, and whether as an embedding.
MODULES = [
    ("gpt_neox", "gpt_neox.layers.1.attention.query_key_value", False),
    ("bloom", "transformer.h.0.self_attention.query_key_value", False),
    ("openai-gpt", "transformer.h.0.attn.c_attn", False),
    ("opt", "model.decoder.embed_positions", True),
    ("opt", "model.decoder.layers.0.self_attn.q_proj", False),
]
CONV1D = ("c_attn",)  # keeps [in, out]


@pytest.mark.parametrize(("model_type", "module", "is_embedding"), MODULES)
def test_an_adapter_is_added_to_what_is_stored(
    model_type: str, module: str, is_embedding: bool, tmp_path: Path
) -> None:
    case = next(case for case in all_cases() if case.model_type == model_type)
    directory = save(tiny_model(model_type, case.settings), tmp_path / "base")
    tensors = load_file(directory / "model.safetensors")
    stored = tensors[f"{module}.weight"]
    turned = is_embedding or module.endswith(CONV1D)  # B @ A is [out, in]
    rows, columns = reversed(stored.shape) if turned else stored.shape
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*shape, generator=generator) for shape in ((2, columns), (rows, 2)))
    write_adapter(tmp_path / "adapter", module, a, b, is_embedding)
    found = open_checkpoint(directory, lora=[tmp_path / "adapter"]).weights

    change = b @ a * (3 / 2)  # lora_alpha / r
    tensors[f"{module}.weight"] = (stored + (change.T if turned else change)).contiguous()
    save_file(tensors, directory / "model.safetensors")
    expected = open_checkpoint(directory).weights
    torch.testing.assert_close(found, expected)


def write_adapter(directory: Path, module: str, a: torch.Tensor, b: torch.Tensor, is_embedding: bool) -> None:
    """PEFT's layout."""
    names = ("lora_embedding_A", "lora_embedding_B") if is_embedding else ("lora_A.weight", "lora_B.weight")
    directory.mkdir()
    tensors = {f"base_model.model.{module}.{name}": tensor for name, tensor in zip(names, (a, b), strict=True)}
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 3, "bias": "none"}
    (directory / "adapter_config.json").write_text(json.dumps(config))
