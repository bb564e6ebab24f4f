"""A client of generate.onnx, as a program in any language would be one: onnxruntime, and arrays in and out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxgpt.runtime.engine import ort

REASONS = ("length", "eos", "context")  # the runtime's words for the numbers
SETTINGS = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed", "end_ids")
FLOATS = ("temperature", "top_p", "repetition_penalty")


class OneCall:
    def __init__(self, directory: Path):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.enable_mem_pattern = False
        self.session = ort.InferenceSession(str(directory / "generate.onnx"), options)

    def run(self, prompt: Sequence[int], **settings: Any) -> tuple[list[int], str]:
        ids, reason = self.session.run(None, {"prompt_ids": np.array(prompt, np.int64)} | arrays(settings))
        return ids.tolist(), REASONS[reason[0]]


def arrays(settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """All settings; those that are not given are empty, which stands for the bundle's own. No end ids: -1."""
    if settings.get("end_ids") == ():
        settings = settings | {"end_ids": -1}
    return {name: array(name, settings.get(name, ())) for name in SETTINGS}


def array(name: str, value: Any) -> np.ndarray:
    if name == "seed" and value != () and value >= 1 << 63:
        value -= 1 << 64  # the same 64 bits
    return np.array(np.atleast_1d(value), np.float32 if name in FLOATS else np.int64)


def as_options(settings: dict[str, Any]) -> dict[str, Any]:
    """What the stepwise runtime calls the same settings: temperature 0 is greedy, end ids are eos_token_id."""
    options = dict(settings)
    if "end_ids" in options:
        options["eos_token_id"] = options.pop("end_ids")
    if options.get("temperature") == 0:
        options = {key: value for key, value in options.items() if key not in ("top_k", "top_p", "seed", "temperature")}
        return options | {"do_sample": False}
    return options | {"do_sample": True}
