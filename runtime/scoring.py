"""Scores: how likely a model finds a text, and which of several continuations it finds likeliest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from .cache import AnyCache
from .errors import OptionError, PromptError
from .likelihood import Likelihood
from .logits import Logits
from .reading import Reader, Readings
from .request import Encoder, Prompt
from .session import Session


@dataclass(frozen=True)
class Score:
    """Log-probabilities (natural) of a text's tokens, each given all before it; the first has none before it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # of token_ids[1:]

    @property
    def total(self) -> float:
        """Sum of the log-probabilities."""
        return math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability."""
        return math.exp(-self.total / len(self.logprobs))


@dataclass(frozen=True)
class CandidateScore:
    """How likely a candidate is behind a prompt.

    Scored are all tokens behind those that the prompt has in common with every candidate joined to it: where a
    tokenizer joins the prompt's end with a candidate's beginning to one token, that token belongs to the candidate.
    So the candidates of one call are scored from the same place on, and their totals can be compared.
    """

    candidate: Prompt
    token_ids: tuple[int, ...]  # that were scored
    logprobs: tuple[float, ...]  # natural, each given all before it

    @property
    def total(self) -> float:
        """Sum of the log-probabilities: the logarithm of the candidate's probability."""
        return math.fsum(self.logprobs)

    @property
    def mean(self) -> float:
        """Mean of the log-probabilities, which does not punish long candidates."""
        return self.total / len(self.logprobs)


def score_tokens(reader: Reader, cache: AnyCache, ids: Sequence[int]) -> Score:
    """Score at least two tokens with an empty cache of one row; memory stays bounded by chunks."""
    return Score(tuple(ids), tuple(_measure(reader, cache, ids[:-1], ids[1:]).logprobs))


def score_in_windows(reader: Reader, cache: AnyCache, ids: Sequence[int], window: int, stride: int) -> Score:
    """Score a text of any length in windows of `window` tokens that begin every `stride` tokens.

    Each window is read from position 0, and scores the tokens that no window before it held; the last one may be
    shorter. So every token but the text's first is scored once, from the second window on with at least
    `window` - `stride` tokens before it.

    Args:
        reader: of the model.
        cache: of one row, with room for a window; what it holds is forgotten.
        ids: two tokens or more.
        window: at most the model's context.
        stride: from 1 to `window` - 1.
    """
    logprobs: list[float] = []
    scored = 1  # tokens: the first has nothing before it
    for start in range(0, len(ids), stride):
        stop = min(start + window, len(ids))
        part = ids[start:stop]
        known = scored - start  # tokens of the window that an earlier one scored, or the very first
        cache.truncate(0)
        if reader.reads_in_chunks and known > 1:
            reader.last_logits(cache, part[: known - 1])
            logprobs += _measure(reader, cache, part[known - 1 : -1], part[known:]).logprobs
        else:
            logprobs += _measure(reader, cache, part[:-1], part[1:]).logprobs[known - 1 :]
        scored = stop
        if stop == len(ids):
            break
    return Score(tuple(ids), tuple(logprobs))


class CandidateScorer:
    """Scores candidates behind one prompt after the other, and reads again only what changes between two prompts.

    Owns a cache: one thread uses it, and `close` frees it. Also a context manager.
    """

    def __init__(self, session: Session, encoder: Encoder, chunk: int | None):
        self._session = session
        self._encoder = encoder
        self._reader = Reader(session, chunk)
        self._likelihood = Likelihood()
        self._cache = session.new_cache()
        self._held: list[int] = []  # what the cache holds

    def score(self, prompt: Prompt, candidates: Sequence[Prompt]) -> list[CandidateScore]:
        """Score each candidate behind the prompt, which is read once; in the order given.

        Args:
            prompt: a text or token ids.
            candidates: texts behind a text, token ids behind token ids.

        Raises:
            PromptError: no candidate, an empty one, one that does not fit the context, or nothing of the prompt is
                left before the candidates.
        """
        texts, shared = self._join(prompt, candidates)
        endings = [text[shared:] for text in texts]
        logits = self._read(texts[0][:shared])
        normalizer = self._likelihood.normalizer(logits)
        firsts = {ending[0]: float(logits[ending[0]]) - normalizer for ending in endings}
        return [
            CandidateScore(candidate, tuple(ending), (firsts[ending[0]], *self._rest(texts[0][:shared], ending)))
            for candidate, ending in zip(candidates, endings, strict=True)
        ]

    def close(self) -> None:
        """Free the cache. May be called twice."""
        self._cache.close()

    def __enter__(self) -> CandidateScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _join(self, prompt: Prompt, candidates: Sequence[Prompt]) -> tuple[list[list[int]], int]:
        """Token ids of each candidate behind the prompt, and how many of the first ones all and the prompt share."""
        alone = self._encoder.encode(prompt)
        if isinstance(candidates, str) or len(candidates) == 0:
            raise PromptError(f"candidates are {candidates!r}: expected a list of texts or of lists of token ids")
        texts = [self._behind(prompt, alone, candidate, index) for index, candidate in enumerate(candidates)]
        shared = min(min(common_length(alone, text), len(text) - 1) for text in texts)
        if shared == 0:
            raise PromptError(
                "the prompt's first token becomes another one with a candidate behind it: expected tokens that stay, "
                "so that something comes before the candidates; lengthen the prompt"
            )
        return texts, shared

    def _behind(self, prompt: Prompt, alone: list[int], candidate: Prompt, index: int) -> list[int]:
        if isinstance(candidate, str) != isinstance(prompt, str):
            raise PromptError(
                f"candidate {index} is {candidate!r}: expected "
                f"{'a text, as the prompt is' if isinstance(prompt, str) else 'token ids, as the prompt is'}"
            )
        if len(candidate) == 0:
            raise PromptError(f"candidate {index} is empty: expected something to score")
        if isinstance(candidate, str):
            text = self._encoder.encode(cast(str, prompt) + candidate)
        else:
            text = alone + self._encoder.check_ids(candidate)
        if len(text) > self._encoder.context_length:
            raise PromptError(
                f"candidate {index} and the prompt have {len(text)} tokens and the context "
                f"{self._encoder.context_length}: shorten the prompt"
            )
        return text

    def _read(self, ids: list[int]) -> Logits:
        """Let the cache hold these tokens; the last one's logits, [vocabulary]."""
        # The last token is read in any case, since its logits are wanted.
        kept = min(common_length(self._held, ids), len(ids) - 1) if self._reader.reads_in_chunks else 0
        self._cache.truncate(kept)
        self._held = ids[:kept]
        logits = self._reader.last_logits(self._cache, ids[kept:])
        assert logits is not None  # nothing interrupts this reader
        self._held = ids
        last: Logits = logits[0].copy()
        return last

    def _rest(self, shared: list[int], ending: list[int]) -> list[float]:
        """Log-probabilities of an ending's tokens but the first; the cache holds what is shared afterwards too."""
        if len(ending) == 1:
            return []
        if self._reader.reads_in_chunks:
            self._cache.truncate(len(shared))
            found = _measure(self._reader, self._cache, ending[:-1], ending[1:])
            self._cache.truncate(len(shared))
            return found.logprobs
        self._cache.truncate(0)
        text = shared + ending
        return _measure(self._reader, self._cache, text[:-1], text[1:]).logprobs[len(shared) :]


def shares(scores: Sequence[CandidateScore]) -> list[float]:
    """The candidates' probabilities, as if one of them had to come: they sum to 1."""
    totals = [score.total for score in scores]
    highest = max(totals)
    weights = [math.exp(total - highest) for total in totals]
    return [weight / math.fsum(weights) for weight in weights]


def check_window(window: int | None, stride: int, context_length: int) -> tuple[int, int]:
    """The window and stride to read by; without a window it is the context.

    Raises:
        OptionError: the two make no sense together, or are more than the context.
    """
    size = context_length if window is None else window
    if not 2 <= size <= context_length:
        raise OptionError(f"window is {size}: expected 2 to {context_length} tokens, which the context holds")
    if not 1 <= stride < size:
        raise OptionError(
            f"stride is {stride}: expected 1 to {size - 1}, less than the window, so that each token has one before it"
        )
    return size, stride


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with in common.

    >>> common_length([1, 2, 3], [1, 2, 4, 5])
    2
    """
    length = 0
    for ours, theirs in zip(first, second, strict=False):
        if ours != theirs:
            break
        length += 1
    return length


def _measure(reader: Reader, cache: AnyCache, ids: Sequence[int], targets: Sequence[int]) -> Readings:
    found = reader.measure(cache, ids, targets)
    assert found is not None  # nothing interrupts this reader
    return found[0]
