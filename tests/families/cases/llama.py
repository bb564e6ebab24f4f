"""Llama."""

from typing import Any

MODEL_TYPE = "llama"
BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 192,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "heads of 16, tied": {"head_dim": 16, "tie_word_embeddings": True, "rope_theta": 500.0},
    "one key head, biases": {"num_key_value_heads": 1, "head_dim": 16, "attention_bias": True, "mlp_bias": True},
    "every head its own keys, gelu": {"num_key_value_heads": 4, "head_dim": 32, "hidden_act": "gelu_pytorch_tanh"},
    "heads without a fused kernel": {"head_dim": 10, "num_key_value_heads": 4},
    "positions scaled: linear": {"head_dim": 16, "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
    "positions scaled: llama3": {"head_dim": 32, "rope_parameters": LLAMA3 | {"original_max_position_embeddings": 24}},
    "positions scaled: yarn": {
        "head_dim": 16,
        "rope_parameters": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 24},
    },
    "positions scaled: yarn, magnitudes": {
        "head_dim": 16,
        "rope_parameters": {"rope_type": "yarn", "factor": 6.0, "mscale": 0.7, "mscale_all_dim": 1.2, "beta_fast": 8.0,
                            "original_max_position_embeddings": 32, "truncate": False},
    },
    "positions scaled: dynamic, within the original context": {
        "head_dim": 16,
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0},
    },
}  # fmt: skip
