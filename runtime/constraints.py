"""Constraints: processors that forbid, force or bias given tokens.

All take logits float32 [rows, vocabulary], never write into them, and give new ones, or the same where nothing changes.
A forbidden token has the logit -inf.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .distributions import Logits
from .token_rows import Ids, Rows

_NEVER = np.float32(-np.inf)


def forbid(logits: Logits, tokens: Ids) -> Logits:
    """Forbid tokens in all rows."""
    result = logits.copy()
    result[:, tokens] = _NEVER
    return result


def forbid_in(logits: Logits, chosen: NDArray[np.bool_], tokens: Ids) -> Logits:
    """Forbid tokens in the rows that are chosen by a mask [rows]."""
    if not chosen.any():
        return logits
    result = logits.copy()
    result[np.ix_(chosen, tokens)] = _NEVER
    return result


def force_in(logits: Logits, chosen: NDArray[np.bool_], tokens: Ids) -> Logits:
    """Forbid all but `tokens` in the chosen rows; the logit of those is 0, so that they are equally likely."""
    if not chosen.any():
        return logits
    result = logits.copy()
    result[chosen] = _NEVER
    result[np.ix_(chosen, tokens)] = 0
    return result


def forbid_repeated_ngrams(rows: Rows, logits: Logits, size: int) -> Logits:
    """Forbid tokens that would complete a sequence of `size` tokens that the row holds already, prompt included.

    >>> forbid_repeated_ngrams(Rows([[0, 1, 2, 0]], [4], [0]), np.zeros((1, 3), np.float32), 2).tolist()
    [[0.0, -inf, 0.0]]
    """
    repeated = rows.positions >= size - 1
    for back in range(1, size):  # the token `back` places before each token against the row's own end
        ends = rows.starts + rows.lengths - back
        same = rows.ids[:-back] == rows.ids[np.maximum(ends, 0)][rows.owners[back:]]
        repeated[back:] &= same
    if not repeated.any():
        return logits
    result = logits.copy()
    result.reshape(-1)[rows.cells(logits.shape[1])[repeated]] = _NEVER
    return result


class SequenceBiases:
    """Adds a bias to the last token of a sequence where the row ends with the tokens before it.

    transformers' sequence_bias; with biases of -inf its bad_words_ids, and of single tokens a logit bias.

    >>> biases = SequenceBiases([((0,), 1.0), ((2, 1), -5.0)])
    >>> biases(Rows([[2], [0]], [1, 1], [0, 0]), np.zeros((2, 3), np.float32)).tolist()
    [[1.0, -5.0, 0.0], [1.0, 0.0, 0.0]]
    """

    def __init__(self, biases: Iterable[tuple[tuple[int, ...], float]]):
        by_length: dict[int, list[tuple[tuple[int, ...], float]]] = {}
        for tokens, bias in biases:
            by_length.setdefault(len(tokens), []).append((tokens, bias))
        self._groups = [
            (
                np.array([tokens[:-1] for tokens, _ in group], np.int64),  # [sequences, length - 1]
                np.array([tokens[-1] for tokens, _ in group], np.int64),
                np.array([bias for _, bias in group], np.float32),
            )
            for group in by_length.values()
        ]

    def __call__(self, rows: Rows, logits: Logits) -> Logits:
        """Logits with the biases that apply."""
        result = None
        for beginnings, ends, biases in self._groups:
            ended = rows.last(beginnings.shape[1])[:, None] == beginnings  # [rows, sequences, length - 1]
            row, sequence = np.nonzero(ended.all(axis=-1))
            if row.size:
                result = logits.copy() if result is None else result
                np.add.at(result, (row, ends[sequence]), biases[sequence])
        return logits if result is None else result
