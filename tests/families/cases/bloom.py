"""BLOOM: ALiBi, a norm on the embedding, query, key and value fused by head."""

MODEL_TYPE = "bloom"
BASE = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
CASES = {
    "as it is": {},
    "twelve heads, untied": {"hidden_size": 96, "n_head": 12, "tie_word_embeddings": False},
    "six heads, residual from the norms": {
        "hidden_size": 48,
        "n_head": 6,
        "apply_residual_connection_post_layernorm": True,
    },
    "one head of 32, three layers": {"n_head": 1, "n_layer": 3, "layer_norm_epsilon": 1e-3},
}
