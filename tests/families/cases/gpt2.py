"""GPT-2."""

MODEL_TYPE = "gpt2"
BASE = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 192}
CASES = {
    "as it is": {},
    "erf gelu, wide mlp, untied": {"activation_function": "gelu", "n_inner": 80, "tie_word_embeddings": False},
    "one head of 32, three layers": {"n_head": 1, "n_layer": 3, "activation_function": "relu"},
    "unscaled attention": {"scale_attn_weights": False},
    "attention scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
}
