"""CacheLayout: the shapes of a cache and the type of its elements, as the graph has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# Numbers of onnx.TensorProto.DataType.
_ELEMENT_TYPES = {np.dtype(np.float32): 1, np.dtype(np.uint8): 2, np.dtype(np.int8): 3, np.dtype(np.float16): 10}
_BFLOAT16 = 16


@dataclass(frozen=True)
class CacheLayout:
    """Shapes of a cache: per layer (kv_heads, head_size), and the element type.

    With int8, the graph multiplies by scales of its own; with uint8 two values of 4 bits share an element, and
    `head_size` counts elements.
    """

    layers: tuple[tuple[int, int], ...]
    dtype: np.dtype[Any]
    is_bfloat16: bool = False  # which numpy doesn't have: its elements are moved about as uint16

    @property
    def element_type(self) -> int:
        """The element type by ONNX's number for it."""
        return _BFLOAT16 if self.is_bfloat16 else _ELEMENT_TYPES[self.dtype]

    @property
    def tensors(self) -> int:
        """Keys and values of all layers."""
        return 2 * len(self.layers)

    def bytes_per_token(self) -> int:
        """Bytes that one token of one sequence takes, over all layers."""
        return sum(2 * heads * size for heads, size in self.layers) * self.dtype.itemsize
