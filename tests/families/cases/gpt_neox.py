"""GPT-NeoX: partial rotary positions, both residuals, query, key and value fused by head."""

MODEL_TYPE = "gpt_neox"
BASE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 192,
}
CASES = {
    "side by side, a quarter of each head": {},
    "in turn, whole heads of 16": {"num_attention_heads": 2, "rotary_pct": 1.0, "use_parallel_residual": False},
    "no attention bias, half of each head, tied": {
        "attention_bias": False,
        "rotary_pct": 0.5,
        "rotary_emb_base": 500.0,
        "tie_word_embeddings": True,
        "num_hidden_layers": 3,
    },
    "linear scaling, tanh gelu": {
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        "hidden_act": "gelu_new",
    },
    "heads without a fused kernel": {"hidden_size": 40, "rotary_pct": 0.6, "layer_norm_eps": 1e-3},
}
