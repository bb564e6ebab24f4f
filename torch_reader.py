"""The PyTorch GPT as a reader of texts, to judge bundles by the checkpoint itself. Needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .models.checkpoint import Checkpoint, build_gpt
from .models.gpt import Block
from .quantize.readers import ROWS, Logits
from .quantize.text_files import TokenIds


class TorchReader:
    """An opened checkpoint in eager PyTorch, float32; see `quantize.readers.Reader`."""

    def __init__(self, checkpoint: Checkpoint):
        self._gpt = build_gpt(checkpoint)
        self.name = f"{checkpoint.name} (torch {torch.__version__}, float32)"
        self.context_length = checkpoint.config.context_length

    def logits(self, windows: Sequence[TokenIds]) -> Iterator[Iterator[Logits]]:
        """Logits of every position of each window, `ROWS` positions at a time."""
        for ids in windows:
            yield self._window_logits(ids)

    def residuals(self, windows: Sequence[TokenIds]) -> list[NDArray[np.float32]]:
        """Of each block, the residual sum after its MLP at every position of every window, [positions, hidden]."""
        found: list[list[NDArray[np.float32]]] = [[] for _ in self._gpt.blocks]
        hooks = [
            _watch_sum(block, rows)
            for block, rows in zip(self._gpt.blocks, found, strict=True)
            if isinstance(block, Block)
        ]
        try:
            for ids in windows:
                self._gpt(torch.from_numpy(ids[None]), torch.ones((1, len(ids)), dtype=torch.int64), None, 1)
        finally:
            for hook in hooks:
                hook.remove()
        return [np.concatenate(rows) for rows in found]

    def _window_logits(self, ids: TokenIds) -> Iterator[Logits]:
        past = self._gpt.empty_past(1)
        for start in range(0, len(ids), ROWS):
            new = torch.from_numpy(ids[None, start : start + ROWS])
            logits, past = self._gpt(new, torch.ones((1, start + new.shape[1]), dtype=torch.int64), past)
            yield logits[0].numpy()

    def close(self) -> None:
        """Nothing to free before the reader itself goes: the weights are the checkpoint's."""


def _watch_sum(block: Block, rows: list[NDArray[np.float32]]) -> Any:
    """Append the block's residual sum to `rows` at every forward pass, until the returned hook is removed."""

    def leaving_the_block(_: Any, __: Any, output: Any) -> None:
        rows.append(output[0][0].numpy())

    def entering_the_norm(_: Any, inputs: Any) -> None:
        rows.append(inputs[0][0].numpy())

    if block.config.norm_place != "after" or block.mlp_norm is None:
        return block.register_forward_hook(leaving_the_block)
    return block.mlp_norm.register_forward_pre_hook(entering_the_norm)
