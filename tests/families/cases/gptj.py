"""GPT-J: interleaved rotary positions, one norm for attention and MLP."""

MODEL_TYPE = "gptj"
BASE = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 192, "rotary_dim": 4}
CASES = {
    "half of each head": {},
    "whole heads, tied": {"rotary_dim": 8, "tie_word_embeddings": True, "n_inner": 48},
    "heads of 32, relu": {"n_embd": 64, "n_head": 2, "rotary_dim": 16, "activation_function": "relu", "n_layer": 3},
    "heads without a fused kernel": {"n_embd": 40, "rotary_dim": 6, "layer_norm_epsilon": 1e-3},
}
