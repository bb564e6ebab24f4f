"""Llama."""

MODEL_TYPE = "llama"
BASE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 192,
}
CASES = {
    "grouped heads": {},
    "heads of 16, tied": {"head_dim": 16, "tie_word_embeddings": True, "rope_theta": 500.0},
    "one key head, biases": {"num_key_value_heads": 1, "head_dim": 16, "attention_bias": True, "mlp_bias": True},
    "every head its own keys, gelu": {"num_key_value_heads": 4, "head_dim": 32, "hidden_act": "gelu_pytorch_tanh"},
    "heads without a fused kernel": {"head_dim": 10, "num_key_value_heads": 4},
}
