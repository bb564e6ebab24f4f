"""Candidates of a beam search: the continuations that one step looks at, the best of all beams' or drawn ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .logits import Logits

_FOLDS = 64  # tokens of which only the likeliest is looked at first


@dataclass(frozen=True)
class Candidates:
    """Continuations by one token. Three arrays of one length, in the order in which they were chosen."""

    beams: NDArray[np.int64]  # of each candidate the beam that it continues
    tokens: NDArray[np.int64]
    scores: NDArray[np.float32]  # of the whole continued text

    def __len__(self) -> int:
        return len(self.tokens)


def best_candidates(scores: Logits, beam_scores: NDArray[np.float32], count: int) -> Candidates:
    """The `count` continuations with the highest sums of beam score and token score, the best first.

    Args:
        scores: of every next token, [beams, vocabulary]. It is not sorted, and nothing is added to it.
        beam_scores: [beams].

    >>> scores = np.array([[-1, -2, -3], [-9, -1, -9]], np.float32)
    >>> best_candidates(scores, np.array([0, -0.5], np.float32), 3)
    Candidates(beams=array([0, 1, 0]), tokens=array([0, 1, 1]), scores=array([-1. , -1.5, -2. ], dtype=float32))
    """
    best = [_best_tokens(row, count) for row in scores]
    tokens = np.concatenate(best)
    beams = np.repeat(np.arange(len(scores)), [len(found) for found in best])
    sums = scores[beams, tokens] + beam_scores[beams]
    order = np.argsort(-sums, kind="stable")[:count]
    return Candidates(beams[order], tokens[order], sums[order])


def _best_tokens(scores: Logits, count: int) -> NDArray[np.int64]:
    """The tokens with the `count` highest scores of [vocabulary] in order of id; more where some are equal.

    Some `count` of the maxima of parts of the vocabulary are no higher than the tokens sought: what falls below them
    need not be looked at. Finding them is a quarter of the work of partitioning the vocabulary.
    """
    width = len(scores) // _FOLDS
    highest = scores[: width * _FOLDS].reshape(_FOLDS, width).max(axis=0) if width >= count else scores
    border = np.partition(highest, max(len(highest) - count, 0))[max(len(highest) - count, 0)]
    return np.flatnonzero(scores >= border)


def drawn_candidates(
    scores: Logits, beam_scores: NDArray[np.float32], count: int, numbers: Iterable[float]
) -> Candidates:
    """Draw `count` different continuations, each by its share of the probability that is left.

    Should nothing be left to draw, the best of the others follow.

    Args:
        scores: of every next token, [beams, vocabulary], -inf for tokens that are filtered out.
        beam_scores: [beams].
        numbers: in [0, 1), one for each draw; docs/random.md says how they choose.

    >>> scores = np.log(np.array([[0.5, 0.2, 0.3]], np.float32))
    >>> drawn_candidates(scores, np.zeros(1, np.float32), 2, [0.6, 0.6]).tokens.tolist()
    [1, 0]
    """
    sums = (scores + beam_scores[:, None]).ravel()
    possible = np.flatnonzero(sums > -np.inf)
    shares = np.exp(sums[possible].astype(np.float64) - sums[possible].max())
    drawn: list[int] = []
    for _, number in zip(range(count), numbers, strict=False):
        totals = np.cumsum(shares)
        if totals[-1] == 0:
            break
        drawn.append(int(np.searchsorted(totals, number * totals[-1], side="right")))
        shares[drawn[-1]] = 0
    chosen = possible[drawn]
    if len(chosen) < count:
        others = sums.copy()
        others[chosen] = np.nan  # which is sorted last
        chosen = np.concatenate([chosen, np.argsort(-others, kind="stable")[: count - len(chosen)]])
    vocabulary = scores.shape[1]
    return Candidates(chosen // vocabulary, chosen % vocabulary, sums[chosen])
