"""Qwen2."""

from .llama import BASE as LLAMA

MODEL_TYPE = "qwen2"
BASE = LLAMA | {"rope_theta": 1e6, "hidden_size": 64}
CASES = {
    "grouped heads, tied": {"tie_word_embeddings": True, "num_key_value_heads": 1},
    "windows from the second layer on": {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    "windows by layer types": {
        "use_sliding_window": True,
        "sliding_window": 9,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "yarn": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48}},
}
