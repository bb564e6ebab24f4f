"""The matrices of a GGUF file as they lie in it, for an export that keeps their blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .gguf_blocks import KEPT_KINDS, StoredBlocks, take_apart
from .weight_rules import Layout, Shape


@dataclass(frozen=True)
class StoredMatrix:
    """Rows of a tensor as they lie in the file, which stays mapped; nothing is decoded before `blocks` is called."""

    tensor: str  # its name in the file; several matrices may be rows of one
    kind: str  # GGUF's name of the type: Q4_1
    data: NDArray[np.generic]  # [rows, bytes], or [rows, width] of floats
    rows: NDArray[np.int64]  # [out], the row of `data` that is each row of this matrix, in the GPT's order

    @property
    def has_blocks(self) -> bool:
        """Whether its type is one whose blocks can be taken over."""
        return self.kind in KEPT_KINDS

    def blocks(self) -> StoredBlocks:
        """The blocks, row by row; for a type that `has_blocks`."""
        return take_apart(self.kind, np.ascontiguousarray(self.data[self.rows], np.uint8))


def matrices_of(
    tensor: str,
    kind: str,
    data: NDArray[np.generic],
    layout: Layout,
    targets: Sequence[str],
    shapes: Sequence[Shape],
) -> dict[str, StoredMatrix]:
    """The matrices that one stored tensor holds, by their canonical names.

    A layout is followed by what it does to a tensor whose only column is the number of each row: it may split rows
    and put them into another order.

    Args:
        tensor: its name in the file.
        kind: GGUF's name of its type.
        data: [rows, bytes], as mapped.
        layout: how the tensor holds the canonical ones.
        targets: their names.
        shapes: their shapes; matrices are [in, out], embeddings [rows, width].
    """
    narrow = [
        (shape[0], 1) if "_embedding." in target else (1, shape[1])
        for target, shape in zip(targets, shapes, strict=True)
    ]
    parts = layout.unpack(torch.arange(len(data))[:, None], narrow)
    return {
        target: StoredMatrix(tensor, kind, data, part.reshape(-1).numpy())
        for target, part in zip(targets, parts, strict=True)
    }
