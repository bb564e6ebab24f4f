"""The config.json of Llama and its followers as they were published, mostly by versions 4 of transformers."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from onnxgpt.models.config import GPTConfig, RotaryScaling
from onnxgpt.models.families import family_of

RMS = {"position": "rotary", "norm": "rmsnorm", "norm_bias": False, "norm_epsilon": 1e-6, "gated_mlp": True}
NO_BIASES = {"attention_bias": False, "attention_output_bias": False, "mlp_bias": False}
LLAMA: dict[str, Any] = RMS | NO_BIASES | {"activation": "silu", "tied_head": False, "norm_epsilon": 1e-5}
GEMMA: dict[str, Any] = RMS | NO_BIASES | {"activation": "gelu_tanh", "tied_head": True}
PHI: dict[str, Any] = {
    "family": "phi", "position": "rotary", "norm": "layernorm", "activation": "gelu_tanh", "tied_head": False,
    "residual": "parallel_shared_norm", "head_bias": True,
}  # fmt: skip
STABLELM = LLAMA | {"family": "stablelm", "norm": "layernorm", "norm_bias": True}
PHI3_CODE = {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
# Stand-ins as long as the real lists; the real ones are learned numbers.
DIVISORS_48 = {"short_factor": [1.0 + i / 48 for i in range(48)], "long_factor": [1.0 + i for i in range(48)]}


def of(
    heads: int, kv_heads: int, head_size: int, layers: int, inner: int, vocabulary: int, context: int, **choices: Any
) -> dict[str, Any]:
    """A GPTConfig's fields; the width is that of all heads unless said otherwise."""
    return {
        "hidden_size": heads * head_size, "num_layers": layers, "num_heads": heads, "num_kv_heads": kv_heads,
        "head_size": head_size, "intermediate_size": inner, "vocab_size": vocabulary, "context_length": context,
    } | choices  # fmt: skip


def longrope(ratio: int, amplitude: float) -> RotaryScaling:
    return RotaryScaling(
        kind="longrope", factor=ratio, original_context=4096, attention_factor=amplitude,
        factors=tuple(DIVISORS_48["short_factor"]),
    )  # fmt: skip


PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "meta-llama/Llama-2-7b-hf": (
        {
            "_name_or_path": "meta-llama/Llama-2-7b-hf", "architectures": ["LlamaForCausalLM"], "bos_token_id": 1,
            "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
            "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "pretraining_tp": 1,
            "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "float16",
            "transformers_version": "4.31.0.dev0", "use_cache": True, "vocab_size": 32000,
        },
        LLAMA | of(32, 32, 128, 32, 11008, 32000, 4096, family="llama"),
    ),
    "meta-llama/Llama-3.2-1B": (
        {
            "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu",
            "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
            "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama", "num_attention_heads": 32,
            "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
            "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
            "transformers_version": "4.45.0.dev0", "use_cache": True, "vocab_size": 128256,
        },
        LLAMA
        | of(32, 8, 64, 16, 8192, 128256, 131072, family="llama", tied_head=True, rotary_theta=500000.0,
             rotary_scaling=RotaryScaling(kind="llama3", factor=32.0, original_context=8192, low_frequency_factor=1.0,
                                          high_frequency_factor=4.0)),
    ),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": (
        {
            "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2,
            "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
            "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32,
            "num_hidden_layers": 22, "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "transformers_version": "4.35.0", "use_cache": True, "vocab_size": 32000,
        },
        LLAMA | of(32, 4, 64, 22, 5632, 32000, 2048, family="llama"),
    ),
    "mistralai/Mistral-7B-v0.1": (
        {
            "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
            "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
            "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
            "sliding_window": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "transformers_version": "4.34.0.dev0", "use_cache": True, "vocab_size": 32000,
        },
        LLAMA | of(32, 8, 128, 32, 14336, 32000, 32768, family="mistral", windows=(4096,) * 32),
    ),
    "mistralai/Mistral-7B-v0.3": (
        {
            "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
            "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
            "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
            "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "transformers_version": "4.42.0.dev0", "use_cache": True, "vocab_size": 32768,
        },
        LLAMA | of(32, 8, 128, 32, 14336, 32768, 32768, family="mistral", rotary_theta=1e6),
    ),
    "Qwen/Qwen2.5-0.5B": (
        {
            "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
            "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
            "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
            "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
            "torch_dtype": "bfloat16", "transformers_version": "4.40.1", "use_cache": True, "use_mrope": False,
            "use_sliding_window": False, "vocab_size": 151936,
        },
        LLAMA | of(14, 2, 64, 24, 4864, 151936, 32768, family="qwen2", attention_bias=True, tied_head=True,
                   rotary_theta=1e6, norm_epsilon=1e-6),
    ),
    "Qwen/Qwen3-0.6B": (
        {
            "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
            "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072,
            "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
            "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
            "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
            "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True,
            "use_sliding_window": False, "vocab_size": 151936,
        },
        LLAMA | of(16, 8, 128, 28, 3072, 151936, 40960, family="qwen3", hidden_size=1024, tied_head=True,
                   rotary_theta=1e6, norm_epsilon=1e-6, query_key_norm="shared"),
    ),
    "google/gemma-2b": (
        {
            "architectures": ["GemmaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "bos_token_id": 2, "eos_token_id": 1, "head_dim": 256, "hidden_act": "gelu", "hidden_size": 2048,
            "initializer_range": 0.02, "intermediate_size": 16384, "max_position_embeddings": 8192,
            "model_type": "gemma", "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1,
            "pad_token_id": 0, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 10000.0,
            "torch_dtype": "bfloat16", "transformers_version": "4.38.0.dev0", "use_cache": True, "vocab_size": 256000,
        },
        GEMMA | of(8, 1, 256, 18, 16384, 256000, 8192, family="gemma", embedding_scale=2048**0.5),
    ),
    "google/gemma-2-2b": (
        {
            "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
            "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "initializer_range": 0.02,
            "intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2",
            "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0,
            "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096,
            "torch_dtype": "float32", "transformers_version": "4.42.4", "use_cache": True, "vocab_size": 256000,
        },
        GEMMA | of(8, 4, 256, 26, 9216, 256000, 8192, family="gemma2", hidden_size=2304, embedding_scale=48.0,
                   norm_place="both", attention_scale=1 / 16, attention_softcap=50.0, logit_softcap=30.0,
                   windows=(4096, 0) * 13),
    ),
    "google/gemma-3-1b-it": (
        {
            "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "attn_logit_softcapping": None, "bos_token_id": 2, "cache_implementation": "hybrid",
            "eos_token_id": [1, 106], "final_logit_softcapping": None, "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "initializer_range": 0.02,
            "intermediate_size": 6912, "max_position_embeddings": 32768, "model_type": "gemma3_text",
            "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1, "pad_token_id": 0,
            "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": None,
            "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16",
            "transformers_version": "4.50.0.dev0", "use_cache": True, "vocab_size": 262144,
        },
        GEMMA | of(4, 1, 256, 26, 6912, 262144, 32768, family="gemma3_text", hidden_size=1152,
                   embedding_scale=1152**0.5, norm_place="both", attention_scale=1 / 16, query_key_norm="shared",
                   rotary_theta=1e6, local_rotary_theta=10000.0, windows=((512,) * 5 + (0,)) * 4 + (512, 512)),
    ),
    "microsoft/phi-1_5": (
        {
            "_name_or_path": "microsoft/phi-1_5", "architectures": ["PhiForCausalLM"], "attention_dropout": 0.0,
            "bos_token_id": None, "embd_pdrop": 0.0, "eos_token_id": None, "hidden_act": "gelu_new",
            "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048, "model_type": "phi", "num_attention_heads": 32, "num_hidden_layers": 24,
            "num_key_value_heads": None, "partial_rotary_factor": 0.5, "qk_layernorm": False, "resid_pdrop": 0.0,
            "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float16",
            "transformers_version": "4.37.0", "use_cache": True, "vocab_size": 51200,
        },
        PHI | of(32, 32, 64, 24, 8192, 51200, 2048, rotary_size=32),
    ),
    "microsoft/phi-2": (
        {
            "_name_or_path": "microsoft/phi-2", "architectures": ["PhiForCausalLM"], "attention_dropout": 0.0,
            "bos_token_id": 50256, "embd_pdrop": 0.0, "eos_token_id": 50256, "hidden_act": "gelu_new",
            "hidden_size": 2560, "initializer_range": 0.02, "intermediate_size": 10240, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048, "model_type": "phi", "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 32, "partial_rotary_factor": 0.4, "qk_layernorm": False, "resid_pdrop": 0.1,
            "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float16",
            "transformers_version": "4.37.0", "use_cache": True, "vocab_size": 51200,
        },
        PHI | of(32, 32, 80, 32, 10240, 51200, 2048, rotary_size=32),
    ),
    "microsoft/Phi-3-mini-4k-instruct": (
        {
            "_name_or_path": "Phi-3-mini-4k-instruct", "architectures": ["Phi3ForCausalLM"], "attention_bias": False,
            "attention_dropout": 0.0, "auto_map": PHI3_CODE, "bos_token_id": 1, "embd_pdrop": 0.0,
            "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072, "initializer_range": 0.02,
            "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "phi3",
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
            "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0,
            "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0, "sliding_window": 2047,
            "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.40.2",
            "use_cache": True, "vocab_size": 32064,
        },
        LLAMA | of(32, 32, 96, 32, 8192, 32064, 4096, family="phi3", windows=(2047,) * 32),
    ),
    "microsoft/Phi-3-mini-128k-instruct": (
        {
            "_name_or_path": "Phi-3-mini-128k-instruct", "architectures": ["Phi3ForCausalLM"],
            "attention_bias": False, "attention_dropout": 0.0, "auto_map": PHI3_CODE, "bos_token_id": 1,
            "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072,
            "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072,
            "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
            "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0,
            "rms_norm_eps": 1e-05, "rope_scaling": {**DIVISORS_48, "type": "longrope"}, "rope_theta": 10000.0,
            "sliding_window": 262144, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "transformers_version": "4.40.2", "use_cache": True, "vocab_size": 32064,
        },
        # sqrt(1 + ln 32 / ln 4096) = sqrt(1 + 5 / 12), since both are powers of two
        LLAMA | of(32, 32, 96, 32, 8192, 32064, 4096, family="phi3", rotary_scaling=longrope(32, (17 / 12) ** 0.5)),
    ),
    "microsoft/Phi-4-mini-instruct": (
        {
            "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "auto_map": PHI3_CODE | {"AutoTokenizer": "Xenova/gpt-4o"}, "bos_token_id": 199999, "embd_pdrop": 0.0,
            "eos_token_id": 199999, "full_attn_mod": 1, "hidden_act": "silu", "hidden_size": 3072,
            "initializer_range": 0.02, "intermediate_size": 8192, "interpolate_factor": 1, "lm_head_bias": False,
            "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "phi3", "num_attention_heads": 24,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "original_max_position_embeddings": 4096,
            "pad_token_id": 199999, "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
            "rope_scaling": {**DIVISORS_48, "type": "longrope"}, "rope_theta": 10000.0, "sliding_window": 262144,
            "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.45.0",
            "use_cache": True, "vocab_size": 200064,
        },
        LLAMA | of(24, 8, 128, 32, 8192, 200064, 4096, family="phi3", rotary_size=96, tied_head=True,
                   rotary_scaling=longrope(32, (17 / 12) ** 0.5)),
    ),
    "stabilityai/stablelm-2-1_6b": (
        {
            "architectures": ["StableLmForCausalLM"], "bos_token_id": 100257, "eos_token_id": 100257,
            "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
            "layer_norm_eps": 1e-05, "max_position_embeddings": 4096, "model_type": "stablelm",
            "num_attention_heads": 32, "num_hidden_layers": 24, "num_key_value_heads": 32,
            "partial_rotary_factor": 0.25, "rope_theta": 10000, "tie_word_embeddings": False,
            "torch_dtype": "float16", "transformers_version": "4.38.0", "use_cache": True, "use_qkv_bias": True,
            "vocab_size": 100352,
        },
        STABLELM | of(32, 32, 64, 24, 5632, 100352, 4096, rotary_size=16, attention_bias=True),
    ),
    "stabilityai/stablelm-3b-4e1t": (
        {
            "architectures": ["StableLmForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "silu",
            "hidden_size": 2560, "initializer_range": 0.02, "intermediate_size": 6912, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 4096, "model_type": "stablelm", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 32, "partial_rotary_factor": 0.25, "rope_theta": 10000,
            "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.38.0",
            "use_cache": True, "use_qkv_bias": False, "vocab_size": 50304,
        },
        STABLELM | of(32, 32, 80, 32, 6912, 50304, 4096, rotary_size=20),
    ),
    "bigcode/starcoder2-3b": (
        {
            "architectures": ["Starcoder2ForCausalLM"], "attention_dropout": 0.1, "bos_token_id": 0,
            "embedding_dropout": 0.1, "eos_token_id": 0, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 3072,
            "initializer_range": 0.018042, "intermediate_size": 12288, "layer_norm_epsilon": 1e-05,
            "max_position_embeddings": 16384, "mlp_type": "default", "model_type": "starcoder2",
            "norm_epsilon": 1e-05, "norm_type": "layer_norm", "num_attention_heads": 24, "num_hidden_layers": 30,
            "num_key_value_heads": 2, "residual_dropout": 0.1, "rope_theta": 999999.4420358813,
            "sliding_window": 4096, "transformers_version": "4.37.0.dev0", "use_bias": True, "use_cache": True,
            "vocab_size": 49152,
        },
        of(24, 2, 128, 30, 12288, 49152, 16384, family="starcoder2", position="rotary", norm="layernorm",
           activation="gelu_tanh", tied_head=True, rotary_theta=999999.4420358813, windows=(4096,) * 30),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_read(name: str, caplog: pytest.LogCaptureFixture) -> None:
    data, expected = PUBLISHED[name]
    with caplog.at_level(logging.WARNING, logger="onnxgpt"):
        assert family_of(data, name).config_from(data, name) == GPTConfig(**expected)
    assert len(caplog.records) == (expected["context_length"] < data["max_position_embeddings"])
