"""How large a model's activations become: what half precision must hold, seen in PyTorch.

A graph's own logits do not tell it everywhere: where a provider has no kernel for a half type, as the CPU has none for
products in float16, ONNX Runtime computes in float32 and never rounds in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..models.gpt import GPT, Block
from ..models.layers import Embedding, Linear


def largest_activations(gpt: GPT, ids: Sequence[int], *, with_stream: bool) -> dict[str, float]:
    """The largest magnitude of what each matrix reads and gives, for one text.

    Args:
        gpt: in eager PyTorch.
        ids: the text.
        with_stream: look at the residual stream too, between the blocks.

    Returns:
        By the module's name, such as `blocks.3.mlp.down`.
    """
    kinds = (Linear, Embedding, Block) if with_stream else (Linear, Embedding)
    found: dict[str, float] = {}
    hooks = [
        module.register_forward_hook(_watch(name, found))
        for name, module in gpt.named_modules()
        if isinstance(module, kinds)
    ]
    try:
        row = torch.tensor([list(ids)])
        gpt(row, torch.ones_like(row))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _watch(name: str, found: dict[str, float]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        result = output[0] if isinstance(output, tuple) else output
        values = [result, inputs[0]] if isinstance(module, Linear) else [result]
        floats = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
        found[name] = max(float(value.abs().max()) for value in floats)

    return hook
