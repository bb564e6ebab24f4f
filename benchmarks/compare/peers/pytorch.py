"""PyTorch, as transformers runs it: float32 (the reference of the KL divergences) and bfloat16."""

# ruff: noqa: D102  # what the methods do is said in Runtime

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime import OnStep, Prompts, Runtime
from ..workspace import Workspace
from . import optimum_env
from .peer import Peer


class PyTorch(Runtime):
    """The model's forward with a dynamic cache: what `generate` does, without its own cost per token."""

    dtype = "float32"

    def import_libraries(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch: Any = torch
        self._class: Any = AutoModelForCausalLM
        torch.set_num_threads(self.threads)

    def load(self) -> None:
        dtype = getattr(self._torch, self.dtype)
        self._network = self._class.from_pretrained(self.model, dtype=dtype, local_files_only=True).eval()

    def generate(self, prompts: Prompts, new_tokens: int, on_step: OnStep) -> None:
        torch = self._torch
        ids, past = torch.tensor(prompts), None
        with torch.inference_mode():
            for _ in range(new_tokens):
                output = self._network(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
                past = output.past_key_values
                ids = output.logits[:, -1:].argmax(dim=-1)
                if on_step(ids[:, 0].tolist()):
                    return

    def logits(self, token_ids: Sequence[int]) -> Any:
        with self._torch.inference_mode():
            return self._network(input_ids=self._torch.tensor([token_ids])).logits[0].float().numpy()


class PyTorchBfloat16(PyTorch):
    """The same in bfloat16."""

    dtype = "bfloat16"


def _peer(name: str, runtime: type[Runtime]) -> Peer:
    return Peer(
        name=name,
        runtime=runtime,
        environment=optimum_env.NAME,
        requirements=optimum_env.REQUIREMENTS,
        prepare=Workspace.hugging_face,
        weights=_weights,
        reported=("torch", "transformers"),
    )


def _weights(directory: Path) -> Path:
    return directory / "model.safetensors"


PEERS = (_peer("PyTorch fp32", PyTorch), _peer("PyTorch bf16", PyTorchBfloat16))
