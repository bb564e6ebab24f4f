"""Who decodes: a bundle through this library, and the same checkpoint through PyTorch and transformers, eagerly."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import transformers

import onnxgpt
from onnxgpt.runtime.model import Model


class Contestant(Protocol):
    """Decodes greedily, one sequence at a time."""

    name: str

    def tokens_per_second(self, prompt: Sequence[int], new_tokens: int) -> float:
        """The speed of all new tokens behind the first, which comes with the prompt."""


class Ours:
    """A bundle, by `Model.generate`: tokens come to the host one by one, with their log-probabilities."""

    def __init__(self, name: str, bundle: Path, provider: str, *, cuda_graph: bool = False):
        self.name = name
        self.bundle = bundle
        self.model: Model = onnxgpt.load(bundle, provider=provider, **({"cuda_graph": True} if cuda_graph else {}))

    def tokens_per_second(self, prompt: Sequence[int], new_tokens: int) -> float:
        """As `Contestant`."""
        [completion] = self.model.generate(list(prompt), max_new_tokens=new_tokens, do_sample=False, eos_token_id=())
        assert completion.completion_tokens == new_tokens
        return (new_tokens - 1) / completion.timings.decode_seconds


class Torch:
    """transformers' model of the checkpoint, as eager as it comes: the barest loop that PyTorch can do.

    Nothing waits for the device and no token comes to the host before the end, which is more than `generate` or any
    application gets from it.
    """

    def __init__(self, checkpoint: Path, device: str, dtype: torch.dtype):
        self.name = f"PyTorch {torch.__version__} eager, {str(dtype).removeprefix('torch.')}"
        self._device = device
        model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, local_files_only=True)
        self._model = model.to(device).eval()

    @torch.inference_mode()
    def tokens_per_second(self, prompt: Sequence[int], new_tokens: int) -> float:
        """As `Contestant`."""
        ids = torch.tensor([list(prompt)], device=self._device)
        found = self._model(ids, use_cache=True, logits_to_keep=1)
        token = found.logits[:, -1].argmax(-1, keepdim=True)
        self._wait()
        started = time.perf_counter()
        for _ in range(new_tokens - 1):
            found = self._model(token, past_key_values=found.past_key_values, use_cache=True)
            token = found.logits[:, -1].argmax(-1, keepdim=True)
        self._wait()
        return (new_tokens - 1) / (time.perf_counter() - started)

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()
