"""StarCoder2."""

from .llama import BASE as LLAMA

MODEL_TYPE = "starcoder2"
BASE = LLAMA | {"hidden_size": 64, "rope_theta": 1e5}
CASES = {
    "biases, tied": {},
    "a window, untied": {"sliding_window": 20, "tie_word_embeddings": False, "num_key_value_heads": 1},
    "no biases, relu": {"use_bias": False, "hidden_act": "relu", "num_key_value_heads": 4},
}
