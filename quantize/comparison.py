"""The arithmetic of quality: two models' logits compared position by position; definitions in quality.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import OptionError
from .readers import Logits, Reader, check_finite
from .text_files import TokenIds

Progress = Callable[[str, float | None], None]

_ELEMENTS_AT_ONCE = 1 << 20  # probabilities in float64: 8 MB for each of a few arrays
_LARGEST_EXPONENT = 700.0  # exp of more overflows; a model that bad has no perplexity to speak of


@dataclass(frozen=True)
class Positions:
    """What was found at each position, [positions]."""

    kl: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    candidate_log_probability: NDArray[np.float64]  # of the token that follows in the text
    reference_log_probability: NDArray[np.float64]
    is_new: NDArray[np.bool_]  # in no earlier window
    is_scored: NDArray[np.bool_]  # the token that follows is in the window, and was scored in no earlier one


def compare_logits(
    candidate: Logits, reference: Logits, following: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Compare logits [rows, vocabulary] row by row, in float64.

    Args:
        following: the token that follows each row in the text, int64 [rows].

    Returns:
        KL(reference || candidate), whether the most probable tokens are the same, and the log-probabilities of the
        following tokens by the candidate and by the reference; [rows] each.
    """
    ours, theirs = _log_softmax(candidate), _log_softmax(reference)
    rows = np.arange(len(following))
    kl = (np.exp(theirs) * (theirs - ours)).sum(axis=1)
    agrees = candidate.argmax(axis=1) == reference.argmax(axis=1)
    return kl, agrees, ours[rows, following], theirs[rows, following]


def compare_windows(
    candidate: Reader,
    reference: Reader,
    reading: Iterator[Iterator[Logits]],
    parts: Sequence[TokenIds],
    overlap: int,
    report: Progress,
) -> Positions:
    """Read windows with both models and compare them.

    Args:
        candidate: reads the windows here.
        reference: has begun to read them.
        reading: the reference's logits of each window; may go on after the last one.
        parts: the windows.
        overlap: positions that each window has in common with the one before.
        report: is told how far it is.

    Raises:
        BundleError: logits that are not finite.
        OptionError: the vocabularies differ.
    """
    found: list[tuple[NDArray[Any], ...]] = []
    for index, (ids, ours) in enumerate(zip(parts, candidate.logits(parts), strict=True)):
        theirs = next(reading)
        report("comparing the two models", index / len(parts))
        old = overlap if index else 0  # positions that the window before held too
        place = np.arange(len(ids))
        is_scored = (place + 1 >= max(1, old)) & (place + 1 < len(ids))
        pairs = zip(_checked(candidate.name, ours), _checked(reference.name, theirs), strict=True)
        found += _compare_window(pairs, ids, (place >= old, is_scored))
    return Positions(*(np.concatenate(values) for values in zip(*found, strict=True)))


def _compare_window(
    pairs: Iterator[tuple[Logits, Logits]], ids: TokenIds, flags: tuple[NDArray[np.bool_], NDArray[np.bool_]]
) -> Iterator[tuple[NDArray[Any], ...]]:
    """The fields of Positions for a few positions at a time."""
    following = np.append(ids[1:], 0)  # the last one's is not scored
    start = 0
    for ours, theirs in pairs:
        if ours.shape != theirs.shape:
            raise OptionError(
                f"the models have {ours.shape[1]} and {theirs.shape[1]} tokens: expected two forms of one model"
            )
        step = max(1, _ELEMENTS_AT_ONCE // ours.shape[1])
        for row in range(0, len(ours), step):
            rows = slice(row, row + step)
            place = slice(start + row, start + min(row + step, len(ours)))
            values = compare_logits(ours[rows], theirs[rows], following[place])
            yield (*values, *(flag[place] for flag in flags))
        start += len(ours)


def _checked(name: str, pieces: Iterator[Logits]) -> Iterator[Logits]:
    for logits in pieces:
        check_finite(name, logits)
        yield logits


def relative_error(values: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """Mean over rows of |values - exact| / |exact|, for arrays [rows, width].

    A mean of ratios, so that the few positions where a model keeps enormous values don't decide alone.

    >>> relative_error(np.array([[3.0, 5.0], [1.0, 0.0]], np.float32), np.array([[3.0, 4.0], [1.0, 0.0]], np.float32))
    0.1
    """
    norms = np.linalg.norm(exact.astype(np.float64), axis=1)
    differences = np.linalg.norm(values.astype(np.float64) - exact, axis=1)
    return float((differences / np.maximum(norms, np.finfo(np.float32).tiny)).mean())


def perplexity(log_probabilities: NDArray[np.float64]) -> float:
    """exp of the mean negative log-probability (natural)."""
    return math.exp(min(_LARGEST_EXPONENT, -float(log_probabilities.mean())))


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide
