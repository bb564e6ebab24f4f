"""The config.json of real checkpoints, as they were published years ago by other versions of transformers."""

from __future__ import annotations

from typing import Any

import pytest

from onnxgpt.models.config import GPTConfig
from onnxgpt.models.families import family_of

SUMMARY = {
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
}
LEARNED: dict[str, Any] = {"position": "learned", "norm": "layernorm", "activation": "gelu_tanh", "tied_head": True}


def of(heads: int, head_size: int, layers: int, vocabulary: int, context: int, **choices: Any) -> dict[str, Any]:
    """A GPTConfig's fields, every head with its own keys and an MLP of four times the width unless said otherwise."""
    width = heads * head_size
    return {
        "hidden_size": width,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_size": head_size,
        "vocab_size": vocabulary,
        "context_length": context,
        "intermediate_size": 4 * width,
    } | choices


PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "openai-community/openai-gpt": (
        {
            "afn": "gelu", "architectures": ["OpenAIGPTLMHeadModel"], "attn_pdrop": 0.1, "embd_pdrop": 0.1,
            "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "openai-gpt", "n_ctx": 512,
            "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 512, "n_special": 0,
            "predict_special_tokens": True, "resid_pdrop": 0.1, **SUMMARY,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 40478,
        },
        of(12, 64, 12, 40478, 512, family="openai-gpt", norm_place="after", final_norm=False, **LEARNED),
    ),
    "distilbert/distilgpt2": (
        {
            "_num_labels": 1, "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
            "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256,
            "id2label": {"0": "LABEL_0"}, "initializer_range": 0.02, "label2id": {"LABEL_0": 0},
            "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
            "n_layer": 6, "n_positions": 1024, "resid_pdrop": 0.1, **SUMMARY,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257,
        },
        of(12, 64, 6, 50257, 1024, family="gpt2", **LEARNED),
    ),
    "openai-community/gpt2-xl": (
        {
            "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
            "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 1600, "n_head": 25,
            "n_layer": 48, "n_positions": 1024, "n_special": 0, "output_past": True, "predict_special_tokens": True,
            "resid_pdrop": 0.1, **SUMMARY, "vocab_size": 50257,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        },
        of(25, 64, 48, 50257, 1024, family="gpt2", **LEARNED),
    ),
    "microsoft/DialoGPT-small": (
        {
            "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
            "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
            "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, **SUMMARY,
            "task_specific_params": {"conversational": {"max_length": 1000}}, "vocab_size": 50257,
        },
        of(12, 64, 12, 50257, 1024, family="gpt2", **LEARNED),
    ),
    "cerebras/Cerebras-GPT-111M": (
        {
            "activation_function": "gelu", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.0,
            "bos_token_id": 50256, "embd_pdrop": 0.0, "eos_token_id": 50256, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_inner": 3072,
            "n_layer": 10, "n_positions": 2048, "reorder_and_upcast_attn": False, "resid_pdrop": 0.0,
            "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "torch_dtype": "float32",
            "transformers_version": "4.20.1", "use_cache": True, "vocab_size": 50257,
        },
        of(12, 64, 10, 50257, 2048, family="gpt2", **(LEARNED | {"activation": "gelu"})),
    ),
    "EleutherAI/gpt-neo-125m": (
        {
            "activation_function": "gelu_new", "architectures": ["GPTNeoForCausalLM"], "attention_dropout": 0,
            "attention_layers": ["global", "local"] * 6, "attention_types": [[["global", "local"], 6]],
            "bos_token_id": 50256, "embed_dropout": 0, "eos_token_id": 50256, "gradient_checkpointing": False,
            "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": None, "layer_norm_epsilon": 1e-05,
            "max_position_embeddings": 2048, "model_type": "gpt_neo", "num_heads": 12, "num_layers": 12,
            "resid_dropout": 0, **SUMMARY, "transformers_version": "4.9.0.dev0", "use_cache": True,
            "vocab_size": 50257, "window_size": 256,
        },
        of(12, 64, 12, 50257, 2048, family="gpt_neo", attention_bias=False, attention_scale=1.0,
           windows=(0, 256) * 6, **LEARNED),
    ),
    "EleutherAI/gpt-j-6b": (
        {
            "activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"], "attn_pdrop": 0.0,
            "bos_token_id": 50256, "embd_pdrop": 0.0, "eos_token_id": 50256, "gradient_checkpointing": False,
            "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gptj", "n_embd": 4096,
            "n_head": 16, "n_inner": None, "n_layer": 28, "n_positions": 2048, "resid_pdrop": 0.0, "rotary": True,
            "rotary_dim": 64, "scale_attn_weights": True, **SUMMARY,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "temperature": 1.0}},
            "tie_word_embeddings": False, "tokenizer_class": "GPT2Tokenizer", "transformers_version": "4.18.0.dev0",
            "use_cache": True, "vocab_size": 50400,
        },
        of(16, 256, 28, 50400, 2048, family="gptj", position="rotary", rotary_size=64, rotary_interleaved=True,
           norm="layernorm", activation="gelu_tanh", residual="parallel_shared_norm", attention_bias=False,
           attention_output_bias=False, head_bias=True, tied_head=False),
    ),
    "EleutherAI/pythia-70m": (
        {
            "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
            "hidden_size": 512, "initializer_range": 0.02, "intermediate_size": 2048, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 8,
            "num_hidden_layers": 6, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
            "torch_dtype": "float16", "transformers_version": "4.24.0", "use_cache": True,
            "use_parallel_residual": True, "vocab_size": 50304,
        },
        of(8, 64, 6, 50304, 2048, family="gpt_neox", position="rotary", rotary_size=16, norm="layernorm",
           activation="gelu", residual="parallel", tied_head=False),
    ),
    "EleutherAI/gpt-neox-20b": (
        {
            "architectures": ["GPTNeoXForCausalLM"], "attention_probs_dropout_prob": 0, "bos_token_id": 0,
            "eos_token_id": 0, "hidden_act": "gelu_fast", "hidden_dropout_prob": 0, "hidden_size": 6144,
            "initializer_range": 0.02, "intermediate_size": 24576, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 64,
            "num_hidden_layers": 44, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
            "torch_dtype": "float16", "transformers_version": "4.19.0.dev0", "use_cache": True, "vocab_size": 50432,
        },
        of(64, 96, 44, 50432, 2048, family="gpt_neox", position="rotary", rotary_size=24, norm="layernorm",
           activation="gelu_tanh", residual="parallel", tied_head=False),
    ),
    "databricks/dolly-v2-3b": (
        {
            "_name_or_path": "EleutherAI/pythia-2.8b", "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0,
            "custom_pipelines": {"text-generation": {"impl": "instruct_pipeline.InstructionTextGenerationPipeline"}},
            "eos_token_id": 0, "hidden_act": "gelu", "hidden_size": 2560, "initializer_range": 0.02,
            "intermediate_size": 10240, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
            "model_type": "gpt_neox", "num_attention_heads": 32, "num_hidden_layers": 32, "rotary_emb_base": 10000,
            "rotary_pct": 0.25, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "transformers_version": "4.25.1", "use_cache": True, "use_parallel_residual": True, "vocab_size": 50280,
        },
        of(32, 80, 32, 50280, 2048, family="gpt_neox", position="rotary", rotary_size=20, norm="layernorm",
           activation="gelu", residual="parallel", tied_head=False),
    ),
    "togethercomputer/RedPajama-INCITE-Base-3B-v1": (
        {
            "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
            "hidden_size": 2560, "initializer_range": 0.02, "intermediate_size": 10240, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 32,
            "num_hidden_layers": 32, "rotary_emb_base": 10000, "rotary_pct": 1.0, "tie_word_embeddings": False,
            "torch_dtype": "float16", "transformers_version": "4.28.1", "use_cache": True,
            "use_parallel_residual": False, "vocab_size": 50432,
        },
        of(32, 80, 32, 50432, 2048, family="gpt_neox", position="rotary", norm="layernorm", activation="gelu",
           tied_head=False),
    ),
    "facebook/opt-125m": (
        {
            "_name_or_path": "facebook/opt-125m", "_remove_final_layer_norm": False, "activation_dropout": 0.0,
            "activation_function": "relu", "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0,
            "bos_token_id": 2, "do_layer_norm_before": True, "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 3072,
            "hidden_size": 768, "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 2048,
            "model_type": "opt", "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1,
            "prefix": "</s>", "torch_dtype": "float16", "transformers_version": "4.21.0.dev0", "use_cache": True,
            "vocab_size": 50272, "word_embed_proj_dim": 768,
        },
        of(12, 64, 12, 50272, 2048, family="opt", **(LEARNED | {"activation": "relu"})),
    ),
    "facebook/opt-350m": (
        {
            "_name_or_path": "opt-350m", "_remove_final_layer_norm": False, "activation_dropout": 0.0,
            "activation_function": "relu", "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0,
            "bos_token_id": 2, "do_layer_norm_before": False, "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 4096,
            "hidden_size": 1024, "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 2048,
            "model_type": "opt", "num_attention_heads": 16, "num_hidden_layers": 24, "pad_token_id": 1,
            "prefix": "</s>", "torch_dtype": "float16", "transformers_version": "4.20.0.dev0", "use_cache": True,
            "vocab_size": 50272, "word_embed_proj_dim": 512,
        },
        of(16, 64, 24, 50272, 2048, family="opt", norm_place="after", final_norm=False, embedding_size=512,
           **(LEARNED | {"activation": "relu"})),
    ),
    "facebook/galactica-125m": (
        {
            "_name_or_path": "facebook/galactica-125m", "_remove_final_layer_norm": False,
            "activation_function": "gelu", "architectures": ["OPTForCausalLM"], "attention_dropout": 0.1,
            "bos_token_id": 0, "do_layer_norm_before": True, "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 3072,
            "hidden_size": 768, "init_std": 0.02, "layerdrop": 0.0, "learned_embeddings": True,
            "max_position_embeddings": 2048, "model_type": "opt", "num_attention_heads": 12,
            "num_hidden_layers": 12, "pad_token_id": 1, "scale_embeddings": False, "torch_dtype": "float16",
            "transformers_version": "4.21.0.dev0", "use_cache": True, "vocab_size": 50000,
            "word_embed_proj_dim": 768,
        },
        of(12, 64, 12, 50000, 2048, family="opt", **(LEARNED | {"activation": "gelu"})),
    ),
    "bigscience/bloom-560m": (
        {
            "apply_residual_connection_post_layernorm": False, "architectures": ["BloomForCausalLM"],
            "attention_dropout": 0.0, "attention_softmax_in_fp32": True, "bias_dropout_fusion": True,
            "bos_token_id": 1, "eos_token_id": 2, "hidden_dropout": 0.0, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05, "masked_softmax_fusion": True, "model_type": "bloom", "n_embed": 1024,
            "n_inner": None, "n_layer": 24, "num_attention_heads": 16, "offset_alibi": 100, "pad_token_id": 3,
            "pretraining_tp": 1, "seq_length": 2048, "skip_bias_add": True, "skip_bias_add_qkv": False,
            "transformers_version": "4.20.0", "unk_token_id": 0, "use_cache": True, "vocab_size": 250880,
        },
        of(16, 64, 24, 250880, 2048, family="bloom", position="alibi", embedding_norm=True, norm="layernorm",
           activation="gelu_tanh", tied_head=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_read(name: str) -> None:
    data, expected = PUBLISHED[name]
    assert family_of(data, name).config_from(data, name) == GPTConfig(**expected)
