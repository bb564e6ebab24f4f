"""Tiny checkpoints, written by transformers itself: the independent judge of everything in this folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

VOCAB_SIZE = 300  # above the 256 letters of the byte alphabet
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCAB_SIZE}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": VOCAB_SIZE,
}
ENDS = {"bos_token_id": 0, "eos_token_id": 0}  # within the tiny vocabulary


def tiny_model(family: str, **changes: Any) -> transformers.PreTrainedModel:
    """A random model of transformers whose every parameter matters (norms and biases are not their neutral values)."""
    base = GPT2 if family == "gpt2" else LLAMA
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **(base | ENDS | changes))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.dim() > 1 else 0.1
            parameter.add_(torch.randn_like(parameter), alpha=scale)
    return model


def write_tokenizer(directory: Path) -> None:
    """A byte-level tokenizer without merges: 256 letters, and one special token with id 0."""
    letters = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "TokenizersBackend", "eos_token": "<|end|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def save_checkpoint(directory: Path, model: transformers.PreTrainedModel, **options: Any) -> Path:
    """`save_pretrained` plus the tokenizer."""
    model.save_pretrained(directory, **options)
    write_tokenizer(directory)
    return directory


def read_by_transformers(path: Path) -> transformers.PreTrainedModel:
    """A GGUF file by transformers' own reader (its `from_pretrained` would want accelerate for the same)."""
    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    if config.model_type == "gpt2":
        config.n_positions = config.n_ctx  # where transformers puts GGUF's context_length
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    read = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)
    left = model.load_state_dict(read["tensors"], strict=False)
    assert not left.unexpected_keys
    assert set(left.missing_keys) <= {"lm_head.weight"}
    if left.missing_keys:
        model.lm_head.weight = model.get_input_embeddings().weight
    return model


def edit_json(path: Path, **changes: Any) -> None:
    """Set fields of a JSON file; `...` removes one."""
    data = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        data.pop(name, None)
        if value is not ...:
            data[name] = value
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One checkpoint of each family, not to be changed."""
    root = tmp_path_factory.mktemp("saved")
    return {
        "gpt2": save_checkpoint(root / "gpt2", tiny_model("gpt2")),
        "llama": save_checkpoint(root / "llama", tiny_model("llama")),
    }


@pytest.fixture
def copy_of(saved: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a family's checkpoint, to be damaged."""
    return lambda family: Path(shutil.copytree(saved[family], tmp_path / "checkpoint"))
