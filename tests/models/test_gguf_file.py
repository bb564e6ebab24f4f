"""GGUF files written here with the gguf package as llama.cpp's converter writes them, judged by transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from onnxgpt.models.checkpoint import build_gpt, open_checkpoint
from onnxgpt.runtime.errors import CheckpointError, UnsupportedModelError

from .conftest import read_by_transformers, tiny_model
from .gguf_rows import encode

LLAMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GPT2_NAMES = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
Tensors = dict[str, np.ndarray]
Edit = Callable[[gguf.GGUFWriter, Tensors], object]
F32 = gguf.GGMLQuantizationType.F32


def gguf_tensors(model: transformers.PreTrainedModel) -> Tensors:
    """The model's tensors under GGUF's names, rearranged as llama.cpp's convert_hf_to_gguf.py does."""
    config = model.config
    tensors = {}
    state = model.state_dict()
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    for name, tensor in state.items():
        stem, kind = name.rsplit(".", 1)
        values = tensor.float().numpy()
        if config.model_type == "gpt2":
            block, _, part = stem.removeprefix("transformer.h.").partition(".")
            if ".c_" in name and kind == "weight":
                values = values.T
        else:
            block, _, part = stem.removeprefix("model.layers.").partition(".")
            if "q_proj" in name:
                values = permute(values, config.num_attention_heads)
            if "k_proj" in name:
                values = permute(values, config.num_key_value_heads)
        names = GPT2_NAMES if config.model_type == "gpt2" else LLAMA_NAMES
        theirs = names[stem] if stem in names else f"blk.{block}.{names[part]}"
        tensors[f"{theirs}.{kind}"] = np.ascontiguousarray(values)
    return tensors


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """`LlamaModel.permute` of llama.cpp's converter."""
    return (
        weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def write_gguf(
    path: Path,
    model: transformers.PreTrainedModel,
    *,
    quantization: gguf.GGMLQuantizationType = F32,
    kinds: Callable[[str], str] | None = None,
    edit: Edit = lambda writer, tensors: None,
) -> Path:
    """The model as a GGUF file; `kinds` tells the type of each matrix by its name, instead of one for all."""
    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type if config.model_type == "gpt2" else "llama")
    writer.add_name("tiny")
    writer.add_license("mit")
    if config.model_type == "gpt2":
        writer.add_block_count(config.n_layer)
        writer.add_context_length(config.n_positions)
        writer.add_embedding_length(config.n_embd)
        writer.add_feed_forward_length(4 * config.n_embd)
        writer.add_head_count(config.n_head)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        head_size = config.head_dim or config.hidden_size // config.num_attention_heads
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_rope_dimension_count(head_size)
        writer.add_key_length(head_size)
        writer.add_value_length(head_size)
        writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, config.vocab_size)
    tensors = gguf_tensors(model)
    edit(writer, tensors)
    for name, values in tensors.items():
        if kinds is not None and values.ndim == 2:
            data, kind = encode(values, kinds(name))
            writer.add_tensor(name, data, raw_dtype=kind)
            continue
        kind = quantization if values.ndim == 2 else F32
        if kind == gguf.GGMLQuantizationType.F64:
            writer.add_tensor(name, values.astype(np.float64))
        else:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    letters = [chr(256 + byte) if byte < 33 else chr(byte) for byte in range(127)]
    tokens = ["<|end|>", *letters, "he"]
    tokens += [f"[PAD{index}]" for index in range(len(tokens), vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * 128 + [5] * (vocab_size - 129))
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages[0]['content'] }}")


def ours_and_theirs(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the same GGUF file, read by this package and by transformers."""
    theirs = read_by_transformers(path)
    ours = build_gpt(open_checkpoint(path))
    ids = torch.randint(0, 128, (2, 19), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return ours(ids, torch.ones_like(ids))[0], theirs(ids).logits


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama all heads, other theta": ("llama", {"num_key_value_heads": 4, "rope_parameters": {"rope_theta": 777.0}}),
    "gpt2": ("gpt2", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers_reading_the_same_file(case: str, tmp_path: Path) -> None:
    family, changes = CASES[case]
    model = tiny_model(family, **changes)
    ours, theirs = ours_and_theirs(write_gguf(tmp_path / "tiny.gguf", model))
    assert theirs.std() > 0.5
    assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize(
    "changes", [{}, {"attention_bias": True, "mlp_bias": True}, {"head_dim": 16, "tie_word_embeddings": True}]
)
def test_weights_come_back_as_they_were(changes: dict[str, Any], tmp_path: Path) -> None:
    """Against the model that the file was made from, biases and wide heads included."""
    model = tiny_model("llama", **changes)
    ours = build_gpt(open_checkpoint(write_gguf(tmp_path / "tiny.gguf", model)))
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        assert (ours(ids, torch.ones_like(ids))[0] - model(ids).logits).abs().max() <= 1e-4


# Largest error of a value relative to the largest of its matrix: half a step of the type's grid, roughly.
STEPS = {"F16": 1e-3, "BF16": 1e-2, "Q8_0": 1e-2, "Q5_1": 0.05, "Q5_0": 0.1, "Q4_1": 0.1, "Q4_0": 0.15}


@pytest.mark.parametrize("kind", STEPS)
def test_blocks_are_dequantized(kind: str, tmp_path: Path) -> None:
    model = tiny_model("llama", intermediate_size=64)
    exact = open_checkpoint(write_gguf(tmp_path / "exact.gguf", model)).weights
    quantization = gguf.GGMLQuantizationType[kind]
    found = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", model, quantization=quantization)).weights
    for name, expected in exact.items():
        error = (found[name] - expected).abs().max() / expected.abs().max()
        assert error <= STEPS[kind], name
        assert found[name].dtype == torch.float32
        assert expected.dim() == 1 or error > 0  # the blocks were really of that type


def test_config_tokenizer_and_template_come_in_hugging_face_form(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", tiny_model("llama")))
    config = json.loads(checkpoint.files["config.json"])
    assert config["rms_norm_eps"] == 1e-6  # the shortest decimal of the file's float32
    assert (config["model_type"], config["eos_token_id"]) == ("llama", 0)
    assert json.loads(checkpoint.files["generation_config.json"]) == {"eos_token_id": 0}
    assert checkpoint.files["chat_template.jinja"] == b"{{ messages[0]['content'] }}"
    assert checkpoint.source["license"] == "mit"
    assert checkpoint.source["kind"] == "gguf"
    for name, content in checkpoint.files.items():
        (tmp_path / name).write_bytes(content)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("the<|end|>").input_ids == [117, 128, 0]
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert theirs.rope_parameters["rope_theta"] == 10000.0


def _add(name: str, values: np.ndarray) -> Edit:
    return lambda writer, tensors: tensors.update({name: values})


@pytest.mark.parametrize(
    ("edit", "error", "part"),
    [
        (lambda w, t: t.pop("blk.1.attn_q.weight"), CheckpointError, "lacks blk.1.attn_q.weight"),
        (_add("blk.0.attn_sinks.weight", np.zeros(4, np.float32)), CheckpointError, "attn_sinks"),
        (_add("output_norm.weight", np.zeros(31, np.float32)), CheckpointError, "output_norm.weight"),
        (_add("output_norm.weight", np.full(32, np.nan, np.float32)), CheckpointError, "NaN"),
        (lambda w, t: t.pop("token_embd.weight"), CheckpointError, "token_embd.weight"),
        (_add("rope_factors_long.weight", np.ones(4, np.float32)), UnsupportedModelError, "rope_factors_long"),
        (lambda w, t: w.add_string("llama.rope.scaling.type", "dynamic"), UnsupportedModelError, "dynamic"),
        (lambda w, t: w.add_rope_scaling_attn_factors(1.5), UnsupportedModelError, "attn_factor = 1.5"),
        (lambda w, t: w.add_rope_scaling_yarn_attn_factor(1.5), UnsupportedModelError, "yarn_attn_factor"),
        (lambda w, t: w.add_expert_count(8), UnsupportedModelError, "expert_count"),
        (lambda w, t: w.add_logit_scale(0.5), UnsupportedModelError, "llama.logit_scale"),
        (lambda w, t: w.add_type("adapter"), UnsupportedModelError, "adapter"),
        (lambda w, t: w.add_uint16("split.count", 2), UnsupportedModelError, "one part of 2"),
    ],
)
def test_files_that_cannot_be_trusted_are_refused_by_name(
    edit: Edit, error: type[CheckpointError], part: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), edit=edit)
    with pytest.raises(error, match=part) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_types_that_cannot_be_dequantized_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny_model("llama"), quantization=gguf.GGMLQuantizationType.F64)
    with pytest.raises(UnsupportedModelError, match="F64"):
        open_checkpoint(path)


def test_neutral_metadata_is_let_pass(tmp_path: Path) -> None:
    def edit(writer: gguf.GGUFWriter, tensors: Tensors) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_causal_attention(True)
        writer.add_string("somebody.note", "made on a Tuesday")

    assert open_checkpoint(write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), edit=edit)).config.num_layers == 2


@pytest.mark.parametrize("keep", [3, 5, 200, -5000, -10])
def test_truncated_files_are_refused(keep: int, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"tiny\.gguf"):
        open_checkpoint(path)


def test_unknown_architectures_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "rwkv7")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match="rwkv7"):
        open_checkpoint(tmp_path / "other.gguf")
