"""A bundle in thirty lines: numpy, onnxruntime and tokenizers. The reference for ports: python run.py BUNDLE PROMPT."""

import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before ONNX Runtime is imported, or it looks up a host
import onnxruntime
import tokenizers

onnxruntime.set_default_logger_severity(3)  # errors, no warnings


def generate(bundle: Path, ids: list[int], max_new_tokens: int = 60, end_ids: tuple[int, ...] = ()) -> list[int]:
    """The likeliest continuation of some token ids: new ids, the end included."""
    architecture = json.loads((bundle / "bundle.json").read_text("utf-8"))["architecture"]
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    pasts = [item for item in session.get_inputs() if item.name.startswith("past_key_values.")]
    # An empty cache: [batch, heads, positions, head size] for each layer's keys and values.
    cache = {item.name: np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32) for item in pasts}
    outputs = ["logits", *(item.name.replace("past_key_values", "present") for item in pasts)]
    text, unread = list(ids), list(ids)
    for _ in range(min(max_new_tokens, architecture["context_length"] - len(ids))):
        feeds = {"input_ids": np.array([unread]), "attention_mask": np.ones((1, len(text)), np.int64)}
        logits, *presents = session.run(outputs, feeds | cache)
        cache = dict(zip(cache, presents, strict=True))  # the presents of a step are the pasts of the next
        unread = [int(logits[0, -1].argmax())]
        text += unread
        if unread[0] in end_ids:
            break
    return text[len(ids) :]


if __name__ == "__main__":
    directory, prompt = Path(sys.argv[1]), sys.argv[2]
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    print(tokenizer.decode(generate(directory, tokenizer.encode(prompt).ids)))
