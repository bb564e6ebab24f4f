"""Filters of sampling: processors that leave the likeliest tokens and give the others the logit -inf.

They look at values alone, so they work as well on the few candidates that a filter before them left (`Shortlist`).
Each takes logits float32 [rows, tokens], tokens in order of id, never writes into them, and leaves at least
`least` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .distributions import Logits, entropy, log_softmax, softmax

_NEVER = np.float32(-np.inf)
_BLOCK = 64  # tokens, of which one maximum is taken to find candidates
_FIRST_WIDTH = 512  # tokens that are sorted first where all of them rarely need be


class Shortlist:
    """The `k` likeliest tokens of each row, and what is about as likely, taken out of logits [rows, vocabulary].

    `values` [rows, most candidates of a row] hold their logits in order of id, then -inf; `ids` are theirs.
    """

    def __init__(self, logits: Logits, k: int):
        rows, vocabulary = self._shape = logits.shape
        flat = logits.reshape(-1)
        cells = (logits >= _bound(logits, k)).reshape(-1).nonzero()[0]
        if rows == 1:
            self.ids = cells[None]
            self.values = flat[self.ids]
            return
        owners = cells // vocabulary
        counts = np.bincount(owners, minlength=rows)
        places = np.arange(len(cells)) - (np.cumsum(counts) - counts)[owners]
        self.ids = np.zeros((rows, int(counts.max())), np.int64)
        self.ids[owners, places] = cells - owners * vocabulary
        self.values = np.full(self.ids.shape, _NEVER)
        self.values[owners, places] = flat[cells]

    def spread(self, values: Logits) -> Logits:
        """Filtered `values` back at their ids, [rows, vocabulary]."""
        result = np.full(self._shape, _NEVER)
        owners, places = (values > _NEVER).nonzero()
        result[owners, self.ids[owners, places]] = values[owners, places]
        return result


def _bound(logits: Logits, k: int) -> Logits:
    """What the k-th highest logit of each row is not below, [rows, 1]."""
    rows, vocabulary = logits.shape
    width = vocabulary // _BLOCK
    if k > width:
        return np.full((rows, 1), np.finfo(np.float32).min)
    # The k-th highest of the blocks' highest ones is no higher than the k-th highest of all.
    peaks = np.maximum.reduce(logits[:, : _BLOCK * width].reshape(rows, _BLOCK, width), axis=1)
    peaks.sort(axis=1)
    bound: Logits = peaks[:, width - k, None]
    return bound


def divide_by_temperature(logits: Logits, temperature: float) -> Logits:
    """Flatter above 1, sharper below.

    >>> divide_by_temperature(np.array([[1.0, 2.0]], np.float32), 0.5).tolist()
    [[2.0, 4.0]]
    """
    return logits / np.float32(temperature)


def keep_top_k(logits: Logits, k: int) -> Logits:
    """Filter out what is less likely than the k-th likeliest token; ties with it stay (Fan et al. 2018).

    >>> keep_top_k(np.array([[1.0, 3.0, 2.0]], np.float32), 2).tolist()
    [[-inf, 3.0, 2.0]]
    """
    return logits if k >= logits.shape[1] else _keep(logits, logits >= _highest(logits, k))


def keep_top_p(logits: Logits, top_p: float, least: int = 1) -> Logits:
    """Keep the smallest set of likeliest tokens whose probabilities reach `top_p` (Holtzman et al. 2020).

    Of equally likely tokens at the border those of the highest ids stay, as in transformers.

    >>> keep_top_p(np.log(np.array([[0.5, 0.3, 0.2]], np.float32)), 0.7).round(2).tolist()
    [[-0.6..., -1.2..., -inf]]
    """
    rows, tokens = logits.shape
    if tokens <= _FIRST_WIDTH:
        return _keep_top_p_of_few(logits, top_p, min(least, tokens))
    total = np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
    for width in _widths(tokens):
        best = logits.copy() if width == tokens else np.partition(logits, tokens - width, axis=1)[:, tokens - width :]
        best.sort(axis=1)  # the likeliest last
        weights = np.exp(best - best[:, -1:])
        sums = weights.cumsum(axis=1)
        # All that the tokens beyond the width weigh together comes below these.
        below = (total - sums[:, -1])[:, None] if width < tokens else 0.0
        removed = np.count_nonzero(below + sums <= (1 - top_p) * (below + sums[:, -1:]), axis=1)
        if width == tokens or removed.all():
            break
    removed = np.minimum(removed, width - least)
    border = best[np.arange(rows), removed][:, None]
    kept = logits >= border
    surplus = np.count_nonzero(kept, axis=1) - (width - removed)
    for row in np.flatnonzero(surplus):
        kept[row, np.flatnonzero(logits[row] == border[row])[: surplus[row]]] = False
    return _keep(logits, kept)


def _keep_top_p_of_few(logits: Logits, top_p: float, least: int) -> Logits:
    """The same by sorting all, in as few operations as can be: between two steps the caches forget their code."""
    result = logits.copy()
    for row in result:
        order = row.argsort(kind="stable")
        best = row[order]  # the likeliest last
        sums = np.exp(best - best[-1]).cumsum()
        removed = int(sums.searchsorted((1 - top_p) * float(sums[-1]), "right"))
        row[order[: min(removed, len(row) - least)]] = _NEVER
    return result


def keep_min_p(logits: Logits, min_p: float, least: int = 1) -> Logits:
    """Filter out tokens less likely than `min_p` times the likeliest one's probability (Nguyen et al. 2024).

    >>> keep_min_p(np.log(np.array([[0.6, 0.3, 0.1]], np.float32)), 0.4)[0, 2].item()
    -inf
    """
    border = logits.max(axis=1, keepdims=True) + np.float32(np.log(min_p))
    return _keep(logits, logits >= np.minimum(border, _highest(logits, least)))


def keep_typical(logits: Logits, mass: float, least: int = 1) -> Logits:
    """Keep tokens whose surprise is nearest the entropy, until their probabilities reach `mass` (Meister et al. 2023).

    >>> keep_typical(np.log(np.array([[0.7, 0.2, 0.1]], np.float32)), 0.2).round(2).tolist()
    [[-0.3..., -inf, -inf]]
    """
    tokens = logits.shape[1]
    log_probabilities = log_softmax(logits)
    probabilities = np.exp(log_probabilities)
    distances = np.abs(-log_probabilities - entropy(log_probabilities, probabilities))
    for width in _widths(tokens):
        if width == tokens:
            nearest = np.argsort(distances, axis=1, kind="stable")
        else:
            nearest = np.argpartition(distances, width, axis=1)[:, :width]
            order = np.argsort(np.take_along_axis(distances, nearest, axis=1), axis=1, kind="stable")
            nearest = np.take_along_axis(nearest, order, axis=1)
        reached = np.cumsum(np.take_along_axis(probabilities, nearest, axis=1), axis=1, dtype=np.float64)
        counts = np.count_nonzero(reached < mass, axis=1) + 1
        if (counts <= width).all():
            break
    last = np.minimum(np.maximum(counts, least), tokens)[:, None] - 1
    border = np.take_along_axis(distances, np.take_along_axis(nearest, last, axis=1), axis=1)
    return _keep(logits, distances <= border)


def keep_above_epsilon(logits: Logits, epsilon: float, least: int = 1) -> Logits:
    """Filter out tokens with a probability below `epsilon` (Hewitt et al. 2022).

    >>> keep_above_epsilon(np.log(np.array([[0.6, 0.3, 0.1]], np.float32)), 0.2)[0, 2].item()
    -inf
    """
    return _keep(logits, (softmax(logits) >= np.float32(epsilon)) | (logits >= _highest(logits, least)))


def keep_above_eta(logits: Logits, epsilon: float, least: int = 1) -> Logits:
    """Filter out probabilities below min(epsilon, sqrt(epsilon) * exp(-entropy)) (Hewitt et al. 2022).

    >>> keep_above_eta(np.log(np.array([[0.6, 0.3, 0.1]], np.float32)), 0.09)[0].round(2).tolist()
    [-0.5..., -1.20..., -2.29...]
    """
    log_probabilities = log_softmax(logits)
    probabilities = np.exp(log_probabilities)
    flatness = np.exp(-entropy(log_probabilities, probabilities))
    eta = np.minimum(np.float32(epsilon), np.sqrt(np.float32(epsilon)) * flatness)
    return _keep(logits, (probabilities >= eta) | (logits >= _highest(logits, least)))


def exclude_top_choices(
    logits: Logits, threshold: float, chosen: Sequence[bool] | NDArray[np.bool_], least: int = 1
) -> Logits:
    """XTC, as llama.cpp has it: of tokens at least as probable as `threshold`, leave the least probable one only.

    Args:
        logits: [rows, tokens].
        threshold: a probability.
        chosen: the rows in which it is done, by the random stream.
        least: rows that would have fewer tokens left stay as they are.

    >>> exclude_top_choices(np.log(np.array([[0.5, 0.3, 0.2]], np.float32)), 0.25, [True]).round(2).tolist()
    [[-inf, -1.20..., -1.6...]]
    """
    finite = logits > _NEVER
    top = (softmax(logits) >= np.float32(threshold)) & finite
    counts = np.count_nonzero(top, axis=1)
    left = np.count_nonzero(finite, axis=1) - (counts - 1)
    affected = np.asarray(chosen) & (counts > 1) & (left >= least)
    if not affected.any():
        return logits
    lowest = np.where(top, logits, np.inf).min(axis=1, keepdims=True)
    removed = top & affected[:, None]
    for row in np.flatnonzero(affected):  # of equally probable ones the highest id stays
        removed[row, np.flatnonzero(removed[row] & (logits[row] == lowest[row]))[-1]] = False
    return _keep(logits, finite & ~removed)


def _widths(tokens: int) -> Sequence[int]:
    """How many tokens to sort: few first, then more, at last all."""
    widths = [_FIRST_WIDTH * 8**power for power in range(3)]
    return [*(width for width in widths if 2 * width < tokens), tokens]


def _highest(logits: Logits, count: int) -> Logits:
    """The `count`-th highest logit of each row, [rows, 1]."""
    tokens = logits.shape[1]
    if count == 1:
        highest: Logits = logits.max(axis=1, keepdims=True)
        return highest
    place = max(tokens - count, 0)
    if tokens > _FIRST_WIDTH:
        return np.partition(logits, place, axis=1)[:, place, None]
    ordered = logits.copy()
    ordered.sort(axis=1)
    return ordered[:, place, None]


def _keep(logits: Logits, kept: NDArray[np.bool_]) -> Logits:
    if kept.size <= _FIRST_WIDTH:
        return np.where(kept, logits, _NEVER)
    # By index: selecting through a mask of unpredictable bits costs several times more.
    cells = np.flatnonzero(kept)
    result = np.full(logits.shape, _NEVER)
    result.reshape(-1)[cells] = logits.reshape(-1)[cells]
    return result
