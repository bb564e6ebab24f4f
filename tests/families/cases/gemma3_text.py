"""Gemma 3, its text models."""

from .llama import BASE as LLAMA

MODEL_TYPE = "gemma3_text"
BASE = LLAMA | {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 15, "num_hidden_layers": 3}
CASES = {
    "windows by a pattern": {"sliding_window_pattern": 3, "num_key_value_heads": 1},
    "windows by layer types, scaled positions": {
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        },
    },
    "a cap, biases, no fused kernel": {
        "sliding_window_pattern": 2,
        "final_logit_softcapping": 5.0,
        "attention_bias": True,
        "head_dim": 10,
    },
    "every layer slides, further than the context": {"sliding_window": 192},
}
