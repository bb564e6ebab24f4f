"""Gemma 2."""

from .llama import BASE as LLAMA

MODEL_TYPE = "gemma2"
BASE = LLAMA | {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 15}
CASES = {
    "every other layer slides": {"num_hidden_layers": 3},
    "tight caps": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0},
    "no caps, layer types": {
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "biases, untied, no fused kernel": {"attention_bias": True, "tie_word_embeddings": False, "head_dim": 10},
}
