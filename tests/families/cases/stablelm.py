"""StableLM."""

from .llama import BASE as LLAMA

MODEL_TYPE = "stablelm"
BASE = LLAMA | {"hidden_size": 64}
CASES = {
    "a quarter of each head rotates": {},
    "biases, every head its own keys": {"use_qkv_bias": True, "num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "norms of each head, parallel": {"qk_layernorm": True, "use_parallel_residual": True},
    "norms of each head, tied": {"qk_layernorm": True, "tie_word_embeddings": True, "partial_rotary_factor": 1.0},
}
