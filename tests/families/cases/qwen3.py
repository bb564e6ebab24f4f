"""Qwen3."""

from .llama import BASE as LLAMA

MODEL_TYPE = "qwen3"
BASE = LLAMA | {"rope_theta": 1e6, "head_dim": 16}
CASES = {
    "norms of queries and keys": {},
    "tied, one key head, wide": {"tie_word_embeddings": True, "num_key_value_heads": 1, "head_dim": 32},
    "biases, a window in every layer": {
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 17,
        "max_window_layers": 0,
    },
}
