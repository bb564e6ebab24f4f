"""Tiny models of transformers as GGUF files, with the names, keys and rearrangements of llama.cpp's conversion.

Names come from the gguf package (`get_tensor_name_map`); keys and rearrangements are those of llama.cpp's
`conversion/*.py`, architecture by architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from .gguf_rows import encode
from .test_gguf_file import Edit, Tensors, add_tokenizer, permute

# model_type of transformers → GGUF's architecture.
ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma": "gemma", "gemma2": "gemma2",
    "gemma3_text": "gemma3", "phi3": "phi3", "phi": "phi2", "starcoder2": "starcoder2", "stablelm": "stablelm",
    "gpt_neox": "gptneox", "bloom": "bloom",
}  # fmt: skip
_REGROUPED = ("llama", "mistral")
_PLUS_ONE = ("gemma", "gemma2", "gemma3_text")
_FUSED_BY_HEAD = ("gpt_neox", "bloom")


def write_dialect(
    path: Path,
    model: Any,
    *,
    kinds: Callable[[str], str] = lambda name: "F32",
    edit: Edit = lambda writer, tensors: None,
) -> Path:
    """The model as a GGUF file; `kinds` tells the type of each matrix by its name."""
    config = model.config
    writer = gguf.GGUFWriter(path, ARCHITECTURES[config.model_type])
    _add_metadata(writer, config)
    add_tokenizer(writer, config.vocab_size)
    tensors = dialect_tensors(model)
    edit(writer, tensors)
    for name, values in tensors.items():
        if values.ndim == 2 and "norm" not in name:
            data, kind = encode(values, kinds(name))
            writer.add_tensor(name, data, raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dialect_tensors(model: Any) -> Tensors:
    """The model's tensors under GGUF's names, rearranged as llama.cpp's conversion does."""
    config = model.config
    family = config.model_type
    architecture = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == ARCHITECTURES[family])
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    state = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        state = {name: values for name, values in state.items() if name not in ("lm_head.weight", "embed_out.weight")}
    tensors: Tensors = {}
    for name, values in _head_norms_stacked(state).items():
        if family in _REGROUPED and "q_proj" in name:
            values = permute(values, config.num_attention_heads)
        if family in _REGROUPED and "k_proj" in name:
            values = permute(values, config.num_key_value_heads)
        if family in _PLUS_ONE and name.endswith("norm.weight"):
            values = values + 1
        if family in _FUSED_BY_HEAD and ".query_key_value." in name:
            by_head = values.reshape(config.num_attention_heads, 3, -1, *values.shape[1:])
            values = np.concatenate([by_head[:, part].reshape(-1, *values.shape[1:]) for part in range(3)])
        name = name.removeprefix("transformer.") if family == "bloom" else name
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        tensors[found] = np.ascontiguousarray(values)
    return tensors | _rotary_divisors(config)


def _head_norms_stacked(state: Tensors) -> Tensors:
    """StableLM's norms, a module for each head, as one tensor [heads, head_size]."""
    stacked: dict[str, list[np.ndarray]] = {}
    for name, values in state.items():
        if ".norms." in name:
            stacked.setdefault(f"{name.split('.norms.')[0]}.weight", []).append(values)
    plain = {name: values for name, values in state.items() if ".norms." not in name}
    return plain | {name: np.stack(parts) for name, parts in stacked.items()}


def _rotary(config: Any) -> dict[str, Any]:
    found: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    return found.get("full_attention", found)


def _rotary_divisors(config: Any) -> Tensors:
    """Llama 3's divisors by Meta's formula, and LongRoPE's as they are."""
    rotary = _rotary(config)
    if rotary.get("rope_type") == "longrope":
        kinds = ("short", "long")
        return {f"rope_factors_{kind}.weight": np.array(rotary[f"{kind}_factor"], np.float32) for kind in kinds}
    if rotary.get("rope_type") != "llama3":
        return {}
    frequencies = 1.0 / rotary["rope_theta"] ** (np.arange(0, config.head_dim, 2) / config.head_dim)
    lengths = 2 * np.pi / frequencies
    original, low, high = (
        rotary[name] for name in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    smooth = (original / lengths - low) / (high - low)
    divisors = np.where(
        lengths < original / high,
        1.0,
        np.where(lengths > original / low, rotary["factor"], 1 / ((1 - smooth) / rotary["factor"] + smooth)),
    )
    return {"rope_freqs.weight": divisors.astype(np.float32)}


def _add_metadata(writer: gguf.GGUFWriter, config: Any) -> None:
    family = config.model_type
    heads, hidden = config.num_attention_heads, config.hidden_size
    rotary = _rotary(config)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(2048 if family == "bloom" else config.max_position_embeddings)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(4 * hidden if family == "bloom" else config.intermediate_size)
    writer.add_head_count(heads)
    if family != "gpt_neox":
        writer.add_head_count_kv(getattr(config, "num_key_value_heads", heads))
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        names = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
        writer.add_layer_norm_eps(next(getattr(config, name) for name in names if hasattr(config, name)))
    if family in ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3", "starcoder2"):
        writer.add_rope_freq_base(rotary["rope_theta"])
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if family in ("llama", "mistral"):
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(config.head_dim)
    if family in ("gpt_neox", "stablelm", "phi", "phi3"):
        writer.add_rope_dimension_count(int(rotary.get("partial_rotary_factor", 1.0) * (hidden // heads)))
    if family in ("gpt_neox", "stablelm"):
        writer.add_parallel_residual(config.use_parallel_residual)
    if family in ("gemma2", "gemma3_text", "phi3", "mistral"):
        writer.add_sliding_window(config.sliding_window or 0)
    if family == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if family == "gemma3_text":
        writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
    if family == "phi3":
        original = rotary.get("original_max_position_embeddings") or config.original_max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(original)
    _add_scaling(writer, config, rotary)


def _add_scaling(writer: gguf.GGUFWriter, config: Any, rotary: dict[str, Any]) -> None:
    kind = rotary.get("rope_type")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rotary["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rotary["original_max_position_embeddings"])
        if "beta_fast" in rotary:
            writer.add_rope_scaling_yarn_beta_fast(rotary["beta_fast"])
    if kind == "longrope":
        original = rotary["original_max_position_embeddings"]
        scale = config.max_position_embeddings / original
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(scale) / np.log(original))) if scale > 1 else 1.0)


def differences(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference in log-probability."""
    return float((ours.double().log_softmax(-1) - theirs.double().log_softmax(-1)).abs().max())
