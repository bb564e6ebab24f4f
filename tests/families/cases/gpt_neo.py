"""GPT-Neo: windows in turn with the whole text, unscaled scores."""

MODEL_TYPE = "gpt_neo"
BASE = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "max_position_embeddings": 192,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 11,
}
CASES = {
    "global and local": {},
    "all global, own width, untied": {
        "attention_types": [[["global"], 2]],
        "intermediate_size": 80,
        "tie_word_embeddings": False,
    },
    "local first, twice over, relu": {
        "num_layers": 3,
        "attention_types": [[["local"], 2], [["global"], 1]],
        "window_size": 1,
        "activation_function": "relu",
    },
    "windows wider than the cache's growth": {"window_size": 70, "num_heads": 2},
    "windows as wide as the context": {"window_size": 192},
}
