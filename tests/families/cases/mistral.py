"""Mistral."""

from .llama import BASE as LLAMA

MODEL_TYPE = "mistral"
BASE = LLAMA | {"head_dim": 16}
CASES = {
    "no window": {"sliding_window": None},
    "a window": {"sliding_window": 20, "rope_theta": 1e6},
    # Not of one: with that, transformers' own cache forgets to forget.
    "a window of two positions, no fused kernel": {"sliding_window": 2, "head_dim": 10},
    "a window as wide as the context": {"sliding_window": 192},
    "one key head": {"sliding_window": 31, "num_key_value_heads": 1, "head_dim": 32},
}
