"""Tiny models to export: random GPTs by configuration, and random checkpoints written by transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from onnxgpt.models.checkpoint import Checkpoint
from onnxgpt.models.config import GPTConfig, RotaryScaling
from onnxgpt.models.gpt import GPT
from onnxgpt.runtime.bundle import Bundle

VOCAB_SIZE = 300  # above the 256 letters of the byte alphabet
CONTEXT = 96

SIZES: dict[str, Any] = {
    "family": "test",
    "vocab_size": VOCAB_SIZE,
    "context_length": CONTEXT,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_size": 16,
    "intermediate_size": 48,
}
GPT2_LIKE: dict[str, Any] = {
    "position": "learned",
    "norm": "layernorm",
    "activation": "gelu_tanh",
    "tied_head": True,
    "num_kv_heads": 4,
}
LLAMA_LIKE: dict[str, Any] = {
    "position": "rotary",
    "norm": "rmsnorm",
    "activation": "silu",
    "gated_mlp": True,
    "tied_head": True,
    "attention_bias": False,
    "attention_output_bias": False,
    "mlp_bias": False,
}
# What no family covers yet, and every way for attention and rotary position to enter the graph.
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": GPT2_LIKE,
    "llama": LLAMA_LIKE,
    "rotary inside, partial and interleaved": LLAMA_LIKE
    | {"head_size": 32, "rotary_size": 16, "rotary_interleaved": True, "tied_head": False},
    "rotary outside": LLAMA_LIKE | {"head_size": 24, "rotary_size": 10, "attention_bias": True, "attention_scale": 0.3},
    "rotary outside, interleaved": GPT2_LIKE
    | {"position": "rotary", "rotary_size": 6, "rotary_interleaved": True, "activation": "gelu"},
    "no fused attention": LLAMA_LIKE | {"head_size": 10, "rotary_size": 6, "head_bias": True, "tied_head": False},
    "sinusoidal, relu, norms after": GPT2_LIKE
    | {"position": "sinusoidal", "activation": "relu", "norm_place": "after", "final_norm": False, "head_size": 8},
    "rms norms after, one key head": LLAMA_LIKE
    | {"norm_place": "after", "num_kv_heads": 1, "gated_mlp": False, "activation": "quick_gelu", "mlp_bias": True},
    "windows, scale by layer": GPT2_LIKE
    | {"windows": (7, 0), "attention_scale": 1.0, "attention_scale_by_layer": True, "tied_head": False},
    "windows, soft caps, norms on both sides, local rotary": LLAMA_LIKE
    | {
        "windows": (5, 0),
        "norm_place": "both",
        "attention_softcap": 3.0,
        "logit_softcap": 4.0,
        "embedding_scale": 5.5,
        "query_key_norm": "shared",
        "local_rotary_theta": 500.0,
        "rotary_scaling": RotaryScaling(kind="linear", factor=4.0),
        "activation": "gelu_tanh",
    },
    "alibi, norm on the embedding": GPT2_LIKE
    | {"position": "alibi", "embedding_norm": True, "num_heads": 6, "num_kv_heads": 6, "residual_from_norm": True},
    "alibi without fused attention": GPT2_LIKE | {"position": "alibi", "head_size": 10},
    "parallel": GPT2_LIKE | {"position": "rotary", "rotary_size": 6, "residual": "parallel"},
    "parallel, one norm, norms of each head": LLAMA_LIKE
    | {"norm": "layernorm", "residual": "parallel_shared_norm", "query_key_norm": "per_head", "norm_bias": False},
    "projections around the blocks": GPT2_LIKE
    | {"embedding_size": 20, "query_key_norm": "shared", "query_key_norm_bias": True},
    "yarn": LLAMA_LIKE
    | {"rotary_scaling": RotaryScaling(kind="yarn", factor=8.0, original_context=12, attention_factor=1.2)},
    "windows without fused attention": LLAMA_LIKE | {"windows": (0, 6), "head_size": 10, "attention_softcap": 2.0},
}


def random_gpt(**changes: Any) -> GPT:
    gpt = GPT(GPTConfig(**(SIZES | changes)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return gpt.eval().requires_grad_(False)


def byte_tokenizer() -> str:
    """A byte-level tokenizer without merges: 256 letters, and one special token with id 0."""
    letters = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer.to_str()


def checkpoint_of(gpt: GPT, name: str = "tiny") -> Checkpoint:
    files = {
        "tokenizer.json": byte_tokenizer().encode(),
        "config.json": b"{}",
        "generation_config.json": b'{"bos_token_id": 0, "eos_token_id": 0}',
    }
    source = {"kind": "directory", "location": "nowhere", "revision": None, "license": None, "sha256": {}}
    return Checkpoint(name, gpt.config, dict(gpt.state_dict()), files, source)


@pytest.fixture(scope="session")
def configs() -> dict[str, dict[str, Any]]:
    return CONFIGS


@pytest.fixture(scope="session")
def make_gpt() -> Callable[..., GPT]:
    return random_gpt


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Checkpoint]:
    return checkpoint_of


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[GPT, Bundle]]:
    """Export one of `configs` by its name, once per session: the eager GPT and the bundle."""
    from onnxgpt.export.pipeline import export_checkpoint
    from onnxgpt.graphs.targets import graph_form

    root = tmp_path_factory.mktemp("exported")
    done: dict[tuple[str, str], tuple[GPT, Bundle]] = {}

    def export(name: str, operators: str = "fused") -> tuple[GPT, Bundle]:
        key = (name, operators)
        if key not in done:
            gpt = random_gpt(**CONFIGS[name])
            out = root / f"{operators}-{len(done)}"
            done[key] = gpt, export_checkpoint(checkpoint_of(gpt), out, form=graph_form(operators=operators))
        return done[key]

    return export


@pytest.fixture(scope="session")
def save_transformers(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """A random model of transformers in which every parameter matters, and the directory it is saved in."""
    bases = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 192},
        "llama": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 192,
        },
    }

    def save(family: str, **changes: Any) -> tuple[Any, Path]:
        torch.manual_seed(0)
        settings = bases[family] | {"vocab_size": VOCAB_SIZE, "bos_token_id": 0, "eos_token_id": 0} | changes
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(family, **settings))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3 if parameter.dim() > 1 else 0.1)
        directory = tmp_path_factory.mktemp(family)
        model.eval().save_pretrained(directory)
        (directory / "tokenizer.json").write_text(byte_tokenizer())
        settings_file = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
        (directory / "tokenizer_config.json").write_text(json.dumps(settings_file))
        return model, directory

    return save
