"""Bundles whose weights were changed: what quality must find, while the truth can be worked out elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from onnxgpt.runtime.bundle import WEIGHTS_FILE, Bundle, seal


def damaged_fairytale(original: Bundle, directory: Path, change: Callable[[str, np.ndarray], None]) -> Bundle:
    """A copy of a float32 bundle after `change(name, weights)`, in place, for every float32 weight on disk."""
    shutil.copytree(original.directory, directory)
    graph = onnx.load(directory / "model.onnx", load_external_data=False).graph
    changed = 0
    for tensor in graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place and tensor.data_type == onnx.TensorProto.FLOAT:
            assert place["location"] == WEIGHTS_FILE
            weights = np.memmap(
                directory / WEIGHTS_FILE,
                np.float32,
                mode="r+",
                offset=int(place.get("offset", 0)),
                shape=tuple(tensor.dims),
            )
            change(tensor.name, weights)
            weights.flush()
            changed += 1
    assert changed > 10
    (directory / "bundle.json").unlink()
    seal(directory, original.manifest)
    return Bundle.open(directory)


def round_to_bfloat16(name: str, weights: np.ndarray) -> None:
    """Round matrices; norms and biases stay."""
    if weights.ndim == 2:
        weights[:] = torch.from_numpy(weights.copy()).bfloat16().float().numpy()
