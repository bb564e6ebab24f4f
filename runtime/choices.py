"""Choices: what a graph that looks for the likeliest tokens itself says of the next ones, in place of all logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Choices:
    """Of each row's last position the likeliest tokens, and what makes log-probabilities of their logits.

    The arrays may be the buffers that the next step writes into: copy what is to be kept.
    """

    greedy: NDArray[np.int64]  # [rows]: the likeliest token, of equal ones that with the smallest id
    ids: NDArray[np.int64]  # [rows, K]: the likeliest first; the order of equal ones is open
    logits: NDArray[np.float32]  # [rows, K]: theirs
    normalizers: NDArray[np.float32]  # [rows]: log(sum(exp(logits))) over the vocabulary

    def of_first(self, rows: int) -> Choices:
        """Those of the first rows alone."""
        return Choices(self.greedy[:rows], self.ids[:rows], self.logits[:rows], self.normalizers[:rows])
