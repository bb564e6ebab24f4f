"""GPT-BigCode."""

MODEL_TYPE = "gpt_bigcode"
BASE = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 192}
CASES = {
    "one key head": {},
    "every head its own keys, untied": {"multi_query": False, "tie_word_embeddings": False},
    "unscaled attention, relu, own width": {
        "scale_attn_weights": False,
        "activation_function": "relu",
        "n_inner": 80,
        "n_head": 2,
    },
}
