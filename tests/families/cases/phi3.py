"""Phi-3."""

from .llama import BASE as LLAMA

MODEL_TYPE = "phi3"
BASE = LLAMA | {"hidden_size": 64, "original_max_position_embeddings": 192}
DIVISORS = {"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [2.0 + 3.0 * i for i in range(8)]}
CASES = {
    "every head its own keys": {"num_key_value_heads": 4},
    "a window": {"sliding_window": 20},
    "longrope, within the original context": {
        "max_position_embeddings": 6144,
        "rope_parameters": {"rope_type": "longrope", **DIVISORS},
    },
    "longrope of three quarters, tied": {
        "hidden_size": 96,
        "max_position_embeddings": 768,
        "tie_word_embeddings": True,
        "partial_rotary_factor": 0.75,
        "rope_parameters": {
            "rope_type": "longrope",
            "short_factor": [1.0 + 0.1 * i for i in range(9)],
            "long_factor": [9.0] * 9,
        },
    },
}
