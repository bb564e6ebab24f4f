"""Logits processors: pure functions (rows, logits) -> logits, over [rows, vocabulary].

Names, meanings and order are Hugging Face transformers': repetition penalty, then temperature, top-k, top-p, min-p.
A token that is filtered out has the logit -inf. Processors never write into their input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import GenerationConfig
from .tokenizer import Tokenizer

Logits = NDArray[np.float32]
TokenIds = Sequence[Sequence[int] | NDArray[np.int64]]  # of every row, prompt included
_NEVER = np.float32(-np.inf)


@dataclass(frozen=True)
class Rows:
    """The texts whose next tokens are chosen. Ids as int64 arrays cost least; they are only read, at once.

    `sequences` are the indices of the rows within their prompts, as the random stream counts them.
    """

    token_ids: TokenIds
    prompt_lengths: Sequence[int]
    sequences: Sequence[int]


Processor = Callable[[Rows, Logits], Logits]


@dataclass(frozen=True)
class Pipeline:
    """Processors in order: called with rows and their logits float32 [rows, vocabulary], it gives new logits."""

    processors: tuple[Processor, ...]

    def __call__(self, rows: Rows, logits: Logits) -> Logits:
        """Apply all; with none the logits themselves come back."""
        for process in self.processors:
            logits = process(rows, logits)
        return logits


def processors_for(
    config: GenerationConfig,
    *,
    vocabulary_size: int,
    context_length: int,
    tokenizer: Tokenizer | None = None,
    seed: int | None = None,
    least_kept: int = 1,
) -> Pipeline:
    """The pipeline that a config asks for; processors that would change nothing are left out.

    Args:
        config: the options.
        vocabulary_size: of the logits; options that name other tokens are refused.
        context_length: where forced last tokens look for the end.
        tokenizer: for options that are texts.
        seed: for what draws numbers of its own.
        least_kept: filters leave this many tokens at least (beam sampling: one more than end tokens).
    """
    chosen: list[Processor] = []
    if config.repetition_penalty != 1:
        chosen.append(lambda rows, logits: penalize_repetition(rows.token_ids, logits, config.repetition_penalty))
    if config.is_greedy:
        return Pipeline(tuple(chosen))
    if config.temperature != 1:
        chosen.append(lambda _, logits: divide_by_temperature(logits, config.temperature))
    if config.top_k:
        chosen.append(lambda _, logits: keep_top_k(logits, max(config.top_k, least_kept)))
    if config.top_p < 1:
        chosen.append(lambda _, logits: keep_top_p(logits, config.top_p))
    if config.min_p:
        chosen.append(lambda _, logits: keep_min_p(logits, config.min_p))
    return Pipeline(tuple(chosen))


def penalize_repetition(token_ids: TokenIds, logits: Logits, penalty: float) -> Logits:
    """Divide positive and multiply negative logits of tokens that occurred by `penalty` (Keskar et al. 2019, CTRL).

    >>> penalize_repetition([[0, 1, 1]], np.array([[2.0, -2.0, 1.0]], np.float32), 2.0).tolist()
    [[1.0, -4.0, 1.0]]
    """
    result = logits.copy()
    for row, ids in zip(result, token_ids, strict=True):
        seen = np.unique(np.asarray(ids, np.int64))
        scores = row[seen]
        row[seen] = np.where(scores < 0, scores * np.float32(penalty), scores / np.float32(penalty))
    return result


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
    vocabulary = logits.shape[-1]
    if k >= vocabulary:
        return logits
    border = np.partition(logits, vocabulary - k, axis=-1)[:, vocabulary - k, None]
    return np.where(logits < border, _NEVER, logits)


def keep_top_p(logits: Logits, top_p: float) -> Logits:
    """Keep the smallest set of likeliest tokens whose probabilities reach `top_p` (Holtzman et al. 2020).

    >>> keep_top_p(np.log(np.array([[0.5, 0.3, 0.2]], np.float32)), 0.7).round(2).tolist()
    [[-0.69..., -1.20..., -inf]]
    """
    result = np.full_like(logits, _NEVER)
    for row, kept in zip(logits, result, strict=True):
        candidates = np.flatnonzero(row > _NEVER)
        scores = row[candidates]
        order = np.argsort(scores, kind="stable")  # the likeliest last, as transformers sorts
        removed = np.cumsum(softmax(scores[order])) <= 1 - top_p
        removed[-1] = False
        chosen = candidates[order[~removed]]
        kept[chosen] = row[chosen]
    return result


def keep_min_p(logits: Logits, min_p: float) -> Logits:
    """Filter out tokens less likely than `min_p` times the likeliest one's probability (Nguyen et al. 2024).

    >>> keep_min_p(np.log(np.array([[0.6, 0.3, 0.1]], np.float32)), 0.4)[0, 2].item()
    -inf
    """
    border = logits.max(axis=-1, keepdims=True) + np.float32(np.log(min_p))
    return np.where(logits < border, _NEVER, logits)


def softmax(logits: Logits) -> Logits:
    """Probabilities along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Logits = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def log_sum_exp(logits: Logits) -> NDArray[np.float32]:
    """log(sum(exp(logits))) along the last axis: what turns a logit into a log-probability when subtracted."""
    highest = logits.max(axis=-1)
    result: NDArray[np.float32] = highest + np.log(np.exp(logits - highest[..., None]).sum(axis=-1))
    return result
