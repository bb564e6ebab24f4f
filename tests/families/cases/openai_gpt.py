"""GPT-1: norms after, none at the end."""

MODEL_TYPE = "openai-gpt"
BASE = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 192}
CASES = {
    "as it is": {},
    "relu, one head of 32": {"afn": "relu", "n_head": 1, "layer_norm_epsilon": 1e-3},
    "silu, three layers, untied": {"afn": "silu", "n_layer": 3, "tie_word_embeddings": False},
}
