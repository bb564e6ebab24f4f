"""`genai_config.json`: so that onnxruntime-genai opens a bundle's directory too."""

from __future__ import annotations

import json
from typing import Any

from ..graphs.targets import Target
from ..models.config import GPTConfig

FILE = "genai_config.json"


def genai_config(config: GPTConfig, generation: dict[str, Any], target: Target, *, shares_cache_buffer: bool) -> str:
    """The text of `genai_config.json` for a decoder with separate keys and values.

    Args:
        config: the model's architecture.
        generation: the content of `generation_config.json`; token ids and search defaults are taken from it.
        target: what the graph is made for.
        shares_cache_buffer: past and present may be one buffer.
    """
    end = generation.get("eos_token_id")
    first_end = end[0] if isinstance(end, list) and end else end
    tokens = {
        "bos_token_id": generation.get("bos_token_id"),
        "eos_token_id": end,
        "pad_token_id": generation.get("pad_token_id", first_end),
    }
    providers = [] if target.genai_provider is None else [target.genai_provider]
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": providers},
        "filename": "model.onnx",
        "head_size": config.head_size,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    # genai's type says how the graph is fed, not the family; its "gpt2" means keys and values in one tensor, and
    # "llama" is its plain decoder.
    model = {"type": "llama", "context_length": config.context_length, "vocab_size": config.vocab_size}
    model |= {name: value for name, value in tokens.items() if value is not None} | {"decoder": decoder}
    search = {
        "do_sample": bool(generation.get("do_sample", False)),
        "max_length": config.context_length,
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": shares_cache_buffer,
        "repetition_penalty": float(generation.get("repetition_penalty", 1.0)),
        "temperature": float(generation.get("temperature", 1.0)),
        "top_k": int(generation.get("top_k", 1)),
        "top_p": float(generation.get("top_p", 1.0)),
    }
    return json.dumps({"model": model, "search": search}, indent=1) + "\n"
