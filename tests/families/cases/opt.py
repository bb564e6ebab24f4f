"""OPT: positions behind two rows, norms before or after, projections of the embedding."""

MODEL_TYPE = "opt"
BASE = {
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 192,
}
CASES = {
    "norms before": {},
    "norms after, projections": {"do_layer_norm_before": False, "word_embed_proj_dim": 20},
    "norms before, projections, untied": {"word_embed_proj_dim": 48, "tie_word_embeddings": False},
    "no biases, gelu": {"enable_bias": False, "activation_function": "gelu", "num_attention_heads": 2},
    "no final norm, three layers": {"_remove_final_layer_norm": True, "num_hidden_layers": 3},
}
