"""GGUF files of every architecture, written as llama.cpp's conversion writes them, judged by transformers.

Two judges where transformers reads the architecture itself: the model that the file was made from, and what
transformers makes of the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from onnxgpt.export.keeping import export_kept
from onnxgpt.keeping import judge_kept
from onnxgpt.models.checkpoint import build_gpt, open_checkpoint
from onnxgpt.models.families import FAMILIES
from onnxgpt.runtime.errors import CheckpointError, UnsupportedModelError
from onnxgpt.runtime.model import Model

from ..families.judging import tiny_model
from .conftest import read_by_transformers
from .gguf_dialects import ARCHITECTURES, dialect_tensors, differences, write_dialect
from .test_gguf_file import Edit, Tensors

LLAMA: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 192,
}
MHA = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24, "rope_theta": 500.0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 24, "rope_theta": 1e4}
DIVISORS = {"short_factor": [1.0 + 0.1 * i for i in range(6)], "long_factor": [2.0 + 3.0 * i for i in range(6)]}
GEMMA = LLAMA | {"head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": 15}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", LLAMA | {"rope_theta": 1e6}),
    "qwen2, tied": ("qwen2", LLAMA | {"tie_word_embeddings": True}),
    "qwen3, heads of 24": ("qwen3", LLAMA | {"head_dim": 24, "tie_word_embeddings": True}),
    "qwen3, biases": ("qwen3", LLAMA | {"attention_bias": True, "head_dim": 16}),
    "gemma": ("gemma", LLAMA | {"head_dim": 24}),
    "gemma2, every other layer slides": ("gemma2", GEMMA | {"num_hidden_layers": 3}),
    "gemma2, tight caps": ("gemma2", GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0}),
    "gemma2 of 46 layers, as 27B": (
        "gemma2",
        GEMMA | {"num_hidden_layers": 46, "query_pre_attn_scalar": 8, "hidden_size": 32, "intermediate_size": 32},
    ),
    "gemma3, six of seven layers slide": ("gemma3_text", GEMMA | {"num_hidden_layers": 7}),
    "gemma3, positions scaled, a cap": (
        "gemma3_text",
        GEMMA
        | {
            "num_hidden_layers": 7,
            "final_logit_softcapping": 5.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        },
    ),
    "phi3": ("phi3", LLAMA | {"original_max_position_embeddings": 192}),
    "phi3, a window": ("phi3", LLAMA | {"original_max_position_embeddings": 192, "sliding_window": 20}),
    "phi3, longrope of three quarters, tied": (
        "phi3",
        LLAMA
        | {
            "max_position_embeddings": 6144,
            "original_max_position_embeddings": 192,
            "tie_word_embeddings": True,
            "partial_rotary_factor": 0.75,
            "rope_parameters": {"rope_type": "longrope", **DIVISORS},
        },
    ),
    "phi": ("phi", MHA),
    "phi, two fifths of each head": ("phi", MHA | {"partial_rotary_factor": 0.4, "hidden_size": 80}),
    "starcoder2": ("starcoder2", LLAMA),
    "starcoder2, no biases, untied": (
        "starcoder2",
        LLAMA | {"use_bias": False, "tie_word_embeddings": False, "rope_theta": 1e5},
    ),
    "stablelm": ("stablelm", LLAMA),
    "stablelm, biases": ("stablelm", LLAMA | {"use_qkv_bias": True, "partial_rotary_factor": 0.5}),
    "stablelm, norms of each head": ("stablelm", LLAMA | {"qk_layernorm": True, "use_parallel_residual": True}),
    "gptneox": ("gpt_neox", MHA),
    "gptneox, in turn, whole heads": ("gpt_neox", MHA | {"rotary_pct": 1.0, "use_parallel_residual": False}),
    "bloom": ("bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "bloom, six heads, untied": ("bloom", {"hidden_size": 48, "n_layer": 2, "n_head": 6, "tie_word_embeddings": False}),
    "llama 3": ("llama", LLAMA | {"head_dim": 32, "rope_parameters": LLAMA3}),
    "llama, linear": ("llama", LLAMA | {"head_dim": 16, "rope_parameters": {"rope_type": "linear", "factor": 4.0}}),
    "llama, yarn": ("llama", LLAMA | {"head_dim": 16, "rope_parameters": YARN}),
    "qwen2, yarn": ("qwen2", LLAMA | {"rope_parameters": YARN | {"beta_fast": 8.0}}),
    "mistral, no window": ("mistral", LLAMA | {"head_dim": 32, "sliding_window": None}),
    "mistral, a window": ("mistral", LLAMA | {"head_dim": 16, "sliding_window": 20}),
}  # fmt: skip
# What transformers 5.23 makes of a GGUF file: it reads no scaling of positions, no soft cap and no size of heads.
READ_BY_TRANSFORMERS = ("qwen2", "qwen2, tied", "starcoder2", "stablelm", "bloom")


def ids() -> torch.Tensor:
    return torch.randint(1, 300, (2, 70), generator=torch.Generator().manual_seed(1))


def logits(path: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = build_gpt(open_checkpoint(path))(ids(), torch.ones_like(ids()))[0]
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_the_model_that_it_was_made_from(case: str, tmp_path: Path) -> None:
    family, settings = CASES[case]
    model = tiny_model(family, settings)
    with torch.no_grad():
        expected = model(ids(), use_cache=False).logits
    assert expected.std() > 0.5
    path = write_dialect(tmp_path / "tiny.gguf", model)
    assert differences(logits(path), expected) <= 1e-3
    assert differences(expected, expected.flip(1)) > 1  # of the same size as what a wrong layout would do


def test_every_architecture_has_a_case() -> None:
    known = {family.model_type: family.gguf.architecture for family in FAMILIES.values() if family.gguf}
    assert known == ARCHITECTURES | {"gpt2": "gpt2"}  # that one in test_gguf_file.py
    assert {family for family, _ in CASES.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("case", READ_BY_TRANSFORMERS)
def test_transformers_makes_the_same_of_the_file(case: str, tmp_path: Path) -> None:
    family, settings = CASES[case]
    path = write_dialect(tmp_path / "tiny.gguf", tiny_model(family, settings))
    with torch.no_grad():
        theirs = read_by_transformers(path)(ids()).logits
    assert differences(logits(path), theirs) <= 1e-3


@pytest.mark.parametrize("case", ["phi", "qwen2", "qwen3, biases", "stablelm, biases", "llama 3", "starcoder2"])
def test_query_key_and_value_may_be_in_one_tensor(case: str, tmp_path: Path) -> None:
    """As older conversions of Phi-2 have it, and newer ones of anything on demand."""

    def fuse(writer: gguf.GGUFWriter, tensors: Tensors) -> None:
        for layer in range(2):
            for kind in ("weight", "bias"):
                names = [f"blk.{layer}.attn_{letter}.{kind}" for letter in "qkv"]
                if names[0] not in tensors:
                    continue
                parts = [tensors.pop(name) for name in names]
                tensors[f"blk.{layer}.attn_qkv.{kind}"] = np.concatenate(parts)

    model = tiny_model(*CASES[case])
    apart = logits(write_dialect(tmp_path / "apart.gguf", model))
    assert logits(write_dialect(tmp_path / "fused.gguf", model, edit=fuse)).equal(apart)


def test_llama3_divisors_come_back_as_they_are(tmp_path: Path) -> None:
    """As a scaling that transformers knows too, which makes the same of the config that is written."""
    model = tiny_model(*CASES["llama 3"])
    written = dialect_tensors(model)["rope_freqs.weight"]
    assert (written.min() < 2, written.max()) == (True, 8.0)
    checkpoint = open_checkpoint(write_dialect(tmp_path / "tiny.gguf", model))
    scaling = checkpoint.config.rotary_scaling
    assert scaling is not None
    assert np.array_equal(np.array(scaling.factors, np.float32), written)
    assert scaling.attention_factor == 1.0
    assert checkpoint.config.context_length == 192
    config = transformers.LlamaConfig.from_dict(json.loads(checkpoint.files["config.json"]))
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert differences(theirs(ids(), use_cache=False).logits, model(ids(), use_cache=False).logits) <= 1e-3


def test_a_gemma3_without_a_window_sees_everything(tmp_path: Path) -> None:
    settings = GEMMA | {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    model = tiny_model("gemma3_text", settings)
    model.config.sliding_window = 0
    path = write_dialect(tmp_path / "tiny.gguf", model)
    with torch.no_grad():
        assert differences(logits(path), model(ids(), use_cache=False).logits) <= 1e-3


def _key(name: str, value: Any) -> Edit:
    def edit(writer: gguf.GGUFWriter, tensors: Tensors) -> None:
        kind = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        kind(name, value)

    return edit


def _tensor(name: str, size: int) -> Edit:
    return lambda writer, tensors: tensors.update({name: np.ones(size, np.float32)})


@pytest.mark.parametrize(
    ("case", "edit", "error", "part"),
    [
        ("qwen2", _key("qwen2.embedding_scale", 2.0), UnsupportedModelError, "qwen2.embedding_scale = 2.0"),
        ("qwen2", _key("qwen2.attention.sliding_window", 16), UnsupportedModelError, "sliding_window = 16"),
        ("qwen2", _tensor("rope_freqs.weight", 8), UnsupportedModelError, "rope_freqs.weight"),
        ("qwen3, biases", _key("qwen3.expert_count", 8), UnsupportedModelError, "expert_count"),
        ("qwen3, biases", _tensor("blk.0.attn_sinks.weight", 4), CheckpointError, "attn_sinks"),
        ("gemma", _key("gemma.attn_logit_softcapping", 9.0), UnsupportedModelError, "attn_logit_softcapping"),
        ("gemma2, tight caps", _key("gemma2.attention.scale", 0.5), UnsupportedModelError, "attention.scale"),
        ("gemma2, tight caps", _key("gemma2.attention.sliding_window_pattern", 3), UnsupportedModelError, "_pattern"),
        ("phi3", _tensor("rope_factors_long.weight", 8), UnsupportedModelError, "rope_factors_short"),
        ("phi", _key("phi2.attention.key_length", 8), UnsupportedModelError, "key"),
        ("phi", _tensor("blk.0.attn_q_norm.weight", 16), CheckpointError, "attn_q_norm"),
        ("phi", _key("phi2.rope.dimension_count", 18), CheckpointError, "rotary_size is 18"),
        ("stablelm", lambda w, t: w.add_array("stablelm.rope.dimension_count", [4, 8]), UnsupportedModelError, "4, 8"),
        ("qwen3, biases", lambda w, t: w.add_array("qwen3.attention.head_count", [4, 4]), CheckpointError, "num_att"),
        ("stablelm", _tensor("blk.1.attn_q.bias", 64), CheckpointError, "attn_q.bias"),
        ("starcoder2", _key("starcoder2.logit_scale", 0.5), UnsupportedModelError, "logit_scale"),
        ("gptneox", _key("gptneox.attention.head_count_kv", 1), UnsupportedModelError, "head_count_kv = 1"),
        ("gptneox", lambda w, t: t.pop("blk.0.attn_qkv.weight"), CheckpointError, "lacks blk.0.attn_qkv.weight"),
        ("bloom", _key("bloom.rope.freq_base", 1e4), UnsupportedModelError, "rope.freq_base"),
        ("bloom", _key("bloom.attention.max_alibi_bias", 4.0), UnsupportedModelError, "max_alibi_bias"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(
    case: str, edit: Edit, error: type[CheckpointError], part: str, tmp_path: Path
) -> None:
    path = write_dialect(tmp_path / "tiny.gguf", tiny_model(*CASES[case]), edit=edit)
    with pytest.raises(error, match=part) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ["phi3", "qwen3, biases"])
def test_blocks_are_kept_of_fused_matrices_and_beside_norms_of_heads(case: str, tmp_path: Path) -> None:
    model = tiny_model(*CASES[case])
    path = write_dialect(tmp_path / "tiny.gguf", model, kinds=lambda name: "Q4_1" if "ffn" in name else "Q4_0")
    checkpoint = open_checkpoint(path)
    bundle = export_kept(checkpoint, tmp_path / "bundle", judge=judge_kept)
    quantization = bundle.manifest.quantization
    assert quantization is not None
    kept = {"Q4_0": 6, "Q4_1": 4} if case == "phi3" else {"Q4_0": 10, "Q4_1": 6}  # tensors of the file
    assert (quantization["kept"], quantization["full_precision"]) == (kept, {})
    found = torch.tensor(Model.load(bundle.directory).logits(ids()[0].numpy()))
    assert differences(found, logits(path)[0]) <= 1e-3
