"""Phi."""

MODEL_TYPE = "phi"
BASE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 192,
}
CASES = {
    "half of each head rotates": {},
    "norms of queries and keys": {"qk_layernorm": True, "partial_rotary_factor": 0.4, "hidden_size": 80},
    "grouped heads, tied": {"num_key_value_heads": 2, "tie_word_embeddings": True, "partial_rotary_factor": 0.25},
    "scaled positions": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}},
}
