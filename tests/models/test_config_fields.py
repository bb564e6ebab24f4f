"""Every field of transformers' configs is used, known as harmless, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from onnxgpt.models.checkpoint import open_checkpoint
from onnxgpt.models.config import GPTConfig
from onnxgpt.models.families import FAMILIES, family_of
from onnxgpt.runtime.errors import CheckpointError, UnsupportedModelError

from .conftest import edit_json

FULL_CONTEXT = {"mistral": {"sliding_window": None}}
WINDOWS_IN_FORCE = {
    model_type: {"use_sliding_window": True, "sliding_window": 64, "layer_types": ["sliding_attention"] * 32}
    for model_type in ("qwen2", "qwen3")
}
# Another value for fields whose type does not suggest one, or whose neighbours must fit.
OTHER_VALUES: dict[str, Any] = {
    "activation_function": "relu",
    "hidden_act": "relu",
    "layer_types": ["full_attention"],
    "num_key_value_heads": 2,
    "n_inner": 100,
    "head_dim": 64,
    "n_embd": 1536,
    "n_head": 2,
    "num_heads": 8,
    "num_layers": 48,
    "attention_types": [[["global"], 24]],
    "attention_layers": ["global"] * 24,
    "rotary_dim": 32,
    "afn": "relu",
    "hidden_size": 3072,
    "num_attention_heads": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 123.0},
    "sliding_window": 77,
    "architectures": ["AnotherModelForSequenceClassification"],
    "model_type": "another",
    "pretraining_tp": 2,
    "dtype": "bfloat16",
    "problem_type": "regression",
}
# What a refusal speaks of instead of the field.
NAMED_AS = {"multi_query": "num_key_value_heads", "model_type": "another", "num_attention_heads": "rotary_size"}
# Fields that do not touch the logits of a causal language model in transformers' own code.
WITHOUT_EFFECT = {
    "attn_pdrop", "embd_pdrop", "resid_pdrop", "attention_dropout", "initializer_range", "use_cache",
    "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
    "summary_first_dropout", "reorder_and_upcast_attn", "pretraining_tp", "bos_token_id", "eos_token_id",
    "pad_token_id", "dtype", "return_dict", "output_hidden_states", "output_attentions", "id2label",
    "label2id", "problem_type", "chunk_size_feed_forward", "transformers_version", "_name_or_path",
    "resid_dropout", "embed_dropout", "classifier_dropout", "hidden_dropout", "dropout", "layerdrop", "init_std",
    "is_decoder", "residual_dropout", "embedding_dropout", "max_window_layers", "_sliding_window_pattern",
    "original_max_position_embeddings",  # without a scaling
    "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32",  # for half precision
}  # fmt: skip


def full_config(model_type: str) -> dict[str, Any]:
    """All fields of a family's config in transformers, with their defaults."""
    return transformers.AutoConfig.for_model(model_type, **FULL_CONTEXT.get(model_type, {})).to_dict()


def read(data: dict[str, Any]) -> GPTConfig:
    return family_of(data, "config.json").config_from(data, "config.json")


def other_value(name: str, value: Any) -> Any:
    if name in OTHER_VALUES and OTHER_VALUES[name] != value:
        return OTHER_VALUES[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value * 2 or 2
    if isinstance(value, float):
        return value * 2 + 0.5
    return "something else" if value is None or isinstance(value, str) else {"0": "other"}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_field_of_transformers_changes_the_config_or_is_harmless_or_refused(model_type: str) -> None:
    defaults = full_config(model_type) | WINDOWS_IN_FORCE.get(model_type, {})
    config = read(defaults)
    for name, value in defaults.items():
        changed = defaults | {name: other_value(name, value)}
        if name in WITHOUT_EFFECT:
            assert read(changed) == config, name
            continue
        outcome = _outcome(changed)
        assert outcome != config, f"{name} was read and ignored"
        if isinstance(outcome, str):
            assert NAMED_AS.get(name, name) in outcome or name in outcome


def _outcome(data: dict[str, Any]) -> GPTConfig | str:
    try:
        return read(data)
    except CheckpointError as error:
        return str(error)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_defaults_left_out_are_those_of_transformers(model_type: str) -> None:
    defaults = full_config(model_type)
    sizes = [
        "model_type", "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "hidden_size", "intermediate_size",
        "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "sliding_window",
        "num_layers", "num_heads", "ffn_dim",
    ]  # fmt: skip
    assert read({name: defaults[name] for name in sizes if name in defaults}) == read(defaults)


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("gpt_neo", {"attention_types": [[["global", "axial"], 12]]}, "axial"),
        ("gpt_neo", {"attention_layers": ["global"] * 23}, "attention_layers"),
        ("gptj", {"rotary": False}, "rotary"),
        ("gptj", {"rotary_dim": None}, "rotary_dim"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine"),
        ("bloom", {"slow_but_exact": True}, "slow_but_exact"),
        ("openai-gpt", {"n_special": 3}, "n_special"),
        ("openai-gpt", {"afn": "gelu_new"}, "gelu_new"),  # a name that its code does not know
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"activation_function": "mish"}, "mish"),
        ("gpt2", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("gpt2", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("gpt2", {"auto_map": {"AutoModelForCausalLM": "code.Model"}}, "auto_map"),
        ("gpt2", {"is_encoder_decoder": True}, "is_encoder_decoder"),
        ("gpt2", {"architectures": ["GPT2ForSequenceClassification"]}, "GPT2ForSequenceClassification"),
        ("gpt2", {"invented_field": 3}, "invented_field"),
        ("llama", {"rope_parameters": {"rope_type": "mrope", "rope_theta": 1e4}}, "mrope"),
        ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("llama", {"rope_parameters": {"rope_theta": 1e4, "mystery": 1}}, "mystery"),
        ("llama", {"rope_interleaved": True}, "rope_interleaved"),
        ("mistral", {"layer_types": ["full_attention"] * 32, "sliding_window": 9}, "layer_types"),
        ("qwen2", {"use_mrope": True}, "use_mrope"),
        ("gemma", {"hidden_activation": "relu"}, "hidden_activation"),
        ("gemma2", {"hidden_act": "gelu"}, "hidden_act"),
        ("gemma2", {"sliding_window_size": 9}, "sliding_window_size"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("phi3", {"auto_map": {"AutoModelForCausalLM": "modeling_phi4.Phi4ForCausalLM"}}, "auto_map"),
        ("phi3", {"lm_head_bias": True}, "lm_head_bias"),
        ("starcoder2", {"norm_type": "rms_norm"}, "norm_type"),
        ("mistral", {"layer_types": ["sliding_attention"]}, "layer_types"),
        ("mistral", {"attention_bias": True}, "attention_bias"),
    ],
)
def test_choices_that_are_not_implemented_are_refused_by_name(family: str, changes: dict, named: str) -> None:
    data = full_config(family) | changes
    data = {name: value for name, value in data.items() if value is not ...}
    with pytest.raises(UnsupportedModelError, match=named):
        read(data)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gpt2", {"n_embd": None}, "n_embd"),
        ("gpt_neo", {"attention_types": 3}, "attention_types"),
        ("gptj", {"rotary_dim": 300}, "rotary_size"),  # of heads of 256
        ("bloom", {"num_attention_heads": 4}, "disagree"),
        ("gpt2", {"n_layer": 0}, "n_layer"),
        ("gpt2", {"n_head": "four"}, "n_head"),
        ("gpt2", {"n_head": 7}, "evenly"),
        ("gpt2", {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ("llama", {"num_key_value_heads": 3}, "num_kv_heads"),
        ("llama", {"rope_theta": 5.0}, "disagree"),
        ("llama", {"rope_parameters": "default"}, "rope_parameters"),
        ("llama", {"rms_norm_eps": -1.0}, "rms_norm_eps"),
        ("llama", {"head_dim": 7}, "rotary"),
        ("llama", {"architectures": 3}, "architectures"),
        ("mistral", {"sliding_window": "wide"}, "sliding_window"),
        ("mistral", {"layer_types": 3}, "layer_types"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 32}, "use_sliding_window"),
        ("qwen2", {"use_sliding_window": True, "layer_types": None, "max_window_layers": -1}, "max_window_layers"),
        ("gemma3_text", {"layer_types": ["windowed"] * 26}, "layer_types"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 1e6}}, "rope_parameters"),
        ("starcoder2", {"layer_norm_epsilon": 0.5}, "disagree"),
        ("phi3", {"original_max_position_embeddings": 0}, "original_max_position_embeddings"),
    ],
)
def test_configs_that_describe_no_model_are_refused(family: str, changes: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read(full_config(family) | changes)
    assert "\n" not in str(caught.value)


def test_both_places_of_the_rotary_base_are_read() -> None:
    data = full_config("llama")
    del data["rope_parameters"]
    assert read(data).rotary_theta == 10000.0
    assert read(data | {"rope_theta": 777.0, "rope_scaling": None}).rotary_theta == 777.0  # transformers 4
    assert read(data | {"rope_parameters": {"rope_theta": 777.0}}).rotary_theta == 777.0  # transformers 5
    assert read(data | {"rope_theta": 777, "rope_scaling": {"rope_type": "default"}}).rotary_theta == 777.0


def test_a_published_config_of_transformers_4_is_read() -> None:
    """The fields of SmolLM2-135M-Instruct's own config.json, as published."""
    data = {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False,
        "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "transformers_version": "4.42.3",
        "use_cache": True, "vocab_size": 49152,
    }  # fmt: skip
    config = read(data)
    assert (config.rotary_theta, config.head_size, config.tied_head) == (100000.0, 64, True)


@pytest.mark.parametrize("family", ["bert", "rwkv", "gemma3", None])
def test_unknown_families_are_refused(copy_of: Callable[[str], Path], family: str | None) -> None:
    directory = copy_of("gpt2")
    edit_json(directory / "config.json", model_type=family)
    with pytest.raises(CheckpointError, match=family or "model_type"):
        open_checkpoint(directory)
