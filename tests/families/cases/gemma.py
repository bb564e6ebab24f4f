"""Gemma."""

from .llama import BASE as LLAMA

MODEL_TYPE = "gemma"
BASE = LLAMA | {"head_dim": 16}
CASES = {
    "one key head": {"num_key_value_heads": 1},
    "untied, biases": {"tie_word_embeddings": False, "attention_bias": True},
    "as released: gelu is tanh": {"hidden_act": "gelu", "head_dim": 32, "num_key_value_heads": 4},
}
