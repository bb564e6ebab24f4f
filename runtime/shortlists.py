"""Shortlists: choosing tokens from the likeliest few that a graph gives out, where that is exactly as from all logits.

What is chosen, its log-probability and the ranking beside it are those that the logits of the whole vocabulary give
(log-probabilities within 1e-5), or nothing is chosen and the step's logits are looked at. With K tokens given out:

- greedy: from the shortlist, with `logprobs` below K;
- sampling with `top_k` below K: from the shortlist, whatever filters follow;
- sampling with `top_p`, or `min_p` alone: from the shortlist in every step in which what they keep lies within it;
- beam search: from the shortlist, where it holds the continuations that are looked at, twice as many as beams or more;
- sampling with none of the three, beam sampling and groups of beams, and anything that looks at other tokens than the
  likeliest (biases, penalties, DRY, forbidden, forced and suppressed tokens, least lengths): from all logits.

Whether a token at the end of the shortlist has equals beyond it can't be known, so what is as likely as the last one
counts as unknown; a vocabulary that is given out whole has no such end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .choices import Choices
from .config import GenerationConfig
from .distributions import Logits
from .likelihood import rank
from .logits import Pipeline
from .results import RankedToken, Ranking
from .row import Row
from .token_rows import Rows

_NEVER = np.float32(-np.inf)
_DOUBT = 2e-5  # share of a sum of probabilities by which roundings here and over all logits may differ


@dataclass(frozen=True)
class Chosen:
    """A token for each row, its log-probability, and the likeliest tokens where they were asked for."""

    tokens: list[int]
    logprobs: list[float]
    rankings: list[Ranking]


class Known:
    """What is known for certain of each row's likeliest tokens, [rows, K] in order of id."""

    def __init__(self, choices: Choices, vocabulary: int):
        """Sort out what the end of the shortlist leaves open."""
        order = choices.ids.argsort(axis=1)
        self.ids = np.take_along_axis(choices.ids, order, axis=1)
        logits = np.take_along_axis(choices.logits, order, axis=1)
        self.border = choices.logits[:, -1:]  # [rows, 1]: what is no likelier than this may be missing
        if logits.shape[1] == vocabulary:
            self.border = np.full_like(self.border, _NEVER)
        self.logits: Logits = np.where(logits > self.border, logits, _NEVER)
        self.counts = np.count_nonzero(self.logits > _NEVER, axis=1)  # [rows]


def continuations(choices: Choices, vocabulary: int, count: int) -> tuple[NDArray[np.int64], Logits] | None:
    """The likeliest continuations of beams: ids [rows, K] in order, and their log-probabilities, -inf if not certain.

    None where fewer than `count` of a row are known for certain.
    """
    known = Known(choices, vocabulary)
    if (known.counts < count).any():
        return None
    return known.ids, known.logits - choices.normalizers[:, None]


class Shortlists:
    """Chooses for one call's options. It keeps nothing between two steps."""

    def __init__(self, config: GenerationConfig, pipeline: Pipeline, vocabulary: int):
        """Args: the call's options and processors, for which `are_enough` holds; tokens of the vocabulary."""
        self._config, self._vocabulary = config, vocabulary
        self._temperature = np.float32(config.temperature)
        self._cuts_nucleus = not config.is_greedy and not config.top_k and config.top_p < 1
        self._filters = Pipeline(filters=pipeline.last_filters if self._cuts_nucleus else pipeline.filters)

    @staticmethod
    def are_enough(config: GenerationConfig, pipeline: Pipeline, count: int) -> bool:
        """Whether the likeliest `count` tokens (0: the graph gives none out) may tell what these options choose."""
        if pipeline.processors or config.logprobs >= count:
            return False
        if config.is_greedy:
            return True
        return config.top_k < count if config.top_k else config.top_p < 1 or config.min_p > 0

    def choose(self, rows: Sequence[Row], choices: Choices) -> Chosen | None:
        """A token for each row, or None where one of them can't be chosen without all logits."""
        known = Known(choices, self._vocabulary)
        if (known.counts < max(1, self._config.logprobs)).any():
            return None
        scores = known.logits if self._config.is_greedy else self._filtered(rows, known, choices)
        if scores is None:
            return None
        chosen = Chosen([], [], [])
        for place, row in enumerate(rows):
            ids, logits, normalizer = known.ids[place], known.logits[place], float(choices.normalizers[place])
            token = row.choose(scores[place], ids)
            chosen.tokens.append(token)
            chosen.logprobs.append(float(logits[ids.searchsorted(token)]) - normalizer)
            best = rank(logits, self._config.logprobs, normalizer) if self._config.logprobs else ()
            chosen.rankings.append(tuple(RankedToken(int(ids[found.id]), found.logprob) for found in best))
        return chosen

    def _filtered(self, rows: Sequence[Row], known: Known, choices: Choices) -> Logits | None:
        """What a sampler chooses among, [rows, K]; None where a filter would look at what is not known."""
        logits: Logits | None = known.logits
        if self._cuts_nucleus:
            logits = self._nucleus(known, choices.normalizers)
        elif (self._least_kept(choices.logits) <= known.border / self._temperature).any():
            return None
        if logits is None:
            return None
        about = Rows(
            [row.token_ids for row in rows],
            [row.prompt_length for row in rows],
            [row.sampler.sequence for row in rows],
        )
        return self._filters(about, logits)

    def _least_kept(self, best: Logits) -> Logits:
        """What logits must reach, divided by the temperature, to pass the first filter, [rows, 1].

        Different logits may become equal when they are divided, so it is the quotients that are compared.
        """
        if self._config.top_k:
            return best[:, self._config.top_k - 1, None] / self._temperature
        return best[:, :1] / self._temperature + np.float32(np.log(self._config.min_p))

    def _nucleus(self, known: Known, normalizers: NDArray[np.float32]) -> Logits | None:
        """What `keep_top_p` keeps of the whole vocabulary, divided by the temperature, and -inf elsewhere.

        None where it would keep more than is known, or where the others' weight leaves open how much it keeps.
        """
        result = known.logits / self._temperature
        result[result <= known.border / self._temperature] = _NEVER
        for place, values in enumerate(result):
            order = values.argsort(kind="stable")[::-1]  # the likeliest first; of equal ones those of the highest ids
            weights = np.exp(values[order].astype(np.float64) - float(values[order[0]]))
            before = weights.cumsum() - weights
            least, most = self._weights_of_others(known.logits[place], float(normalizers[place]))
            kept = np.count_nonzero(before < self._config.top_p * (weights.sum() + least) * (1 - _DOUBT))
            if kept < np.count_nonzero(before < self._config.top_p * (weights.sum() + most) * (1 + _DOUBT)):
                return None
            if kept > np.count_nonzero(values > _NEVER):
                return None
            values[order[max(kept, 1) :]] = _NEVER
        return result

    def _weights_of_others(self, logits: Logits, normalizer: float) -> tuple[float, float]:
        """The least and the most that all tokens which are not known weigh together, where the likeliest weighs 1.

        A weight is exp(logit / T). At temperature 1 the normalizer tells the sum S of the n others' weights. Otherwise
        each is raised to the power 1/T, and none is above the least known one, b: that makes S at most
        S * b ** (1/T - 1) where T is below 1; and where it is above, that at least, and at most n * (S/n) ** (1/T).
        """
        known = logits[logits > _NEVER].astype(np.float64)
        count = self._vocabulary - len(known)
        if not count:
            return 0.0, 0.0
        highest = known.max()
        total = np.exp(normalizer - highest)
        doubt = total * _DOUBT / 2  # the normalizer is a float32
        rest = total - np.exp(known - highest).sum()
        least, most = max(rest - doubt, 0.0), max(rest, 0.0) + doubt
        power = 1 / float(self._temperature)
        factor = np.exp((known.min() - highest) * (power - 1))
        if power > 1:
            return 0.0, float(most * factor)
        return float(least * factor), float(most if power == 1 else count * (most / count) ** power)
