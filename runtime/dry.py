"""DRY ("don't repeat yourself"): a penalty on tokens that would go on with a repetition, by llama.cpp's definition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .distributions import Logits
from .token_rows import Ids, Rows
from .tokenizer import Tokenizer

Tails = Sequence[tuple[int, ...]]
_BLOCK = 64  # tokens compared at once, at most
_FLOAT_LOG_LIMIT = 88.7228391  # log of the highest float32, as llama.cpp writes it


class Dry:
    """Subtracts multiplier * base ** (n - allowed_length) from tokens that would make a repetition longer.

    n is the length of the longest sequence at the end of the row that also stands before an earlier occurrence of the
    token, within the last `last_n` tokens (-1: all), prompt included; only n of at least `allowed_length` count.
    A sequence ends at a breaker, and a token that is a breaker by itself is never penalized.
    """

    def __init__(
        self,
        multiplier: float,
        base: float,
        allowed_length: int,
        last_n: int,
        breakers: Mapping[int, Tails],
        vocabulary: int,
    ):
        """`breakers`: from the first token of each breaker to the tokens that must follow it; () where none must."""
        self._multiplier = multiplier
        self._base = base
        self._allowed = allowed_length
        self._last_n = last_n
        self._breakers = {head: tails for head, tails in breakers.items() if head < vocabulary}
        self._begins_breaker = np.zeros(vocabulary, np.bool_)
        self._begins_breaker[list(self._breakers)] = True
        self._is_breaker = np.zeros(vocabulary, np.bool_)
        self._is_breaker[[head for head, tails in self._breakers.items() if () in tails]] = True
        # Longer repetitions are penalized as this one, so that the penalty stays a float32.
        self._longest = math.inf if base <= 1.000001 else allowed_length + int(_FLOAT_LOG_LIMIT / math.log(base))

    def __call__(self, rows: Rows, logits: Logits) -> Logits:
        """Logits [rows, vocabulary] with the penalties."""
        result = None
        for row, ids in enumerate(rows.token_ids):
            window = np.asarray(ids, np.int64)
            tokens, lengths = self._repetitions(window if self._last_n < 0 else window[-self._last_n :])
            if tokens.size:
                result = logits.copy() if result is None else result
                powers = np.power(self._base, (lengths - self._allowed).astype(np.float64))
                result[row, tokens] -= (self._multiplier * powers).astype(np.float32)
        return logits if result is None else result

    def _repetitions(self, window: Ids) -> tuple[Ids, Ids]:
        """Tokens that would go on with a repetition, each once, and the length of the longest one."""
        none = np.empty(0, np.int64)
        if len(window) <= self._allowed:
            return none, none
        limit = min(self._since_breaker(window), len(window) - 1, self._longest)
        if limit < self._allowed:
            return none, none
        next_tokens = window[1:]
        ends = np.flatnonzero(~self._is_breaker[next_tokens])
        lengths = _repeated_lengths(window, ends, int(limit))
        ends, lengths = ends[lengths >= self._allowed], lengths[lengths >= self._allowed]
        tokens, group = np.unique(next_tokens[ends], return_inverse=True)
        longest = np.zeros(len(tokens), np.int64)
        np.maximum.at(longest, group, lengths)
        return tokens, longest

    def _since_breaker(self, window: Ids) -> int:
        """Tokens after the last breaker."""
        places: list[int] = np.flatnonzero(self._begins_breaker[window])[::-1].tolist()
        for place in places:
            after = len(window) - place - 1
            tails = [tail for tail in self._breakers[int(window[place])] if len(tail) <= after]
            found = [len(tail) for tail in tails if tuple(window[place + 1 : place + 1 + len(tail)].tolist()) == tail]
            if found:
                return after - max(found)
        return len(window)


def breaker_tokens(tokenizer: Tokenizer, breakers: Sequence[str]) -> dict[int, list[tuple[int, ...]]]:
    """How a tokenizer may write texts that break sequences: from a first token to the tokens that must follow it.

    A token that holds the text is a breaker by itself; one that ends with the text's beginning needs the rest.
    """
    result: dict[int, list[tuple[int, ...]]] = {}
    for breaker in breakers:
        rests = {
            breaker[:length]: tuple(tokenizer.encode(breaker[length:], add_special_tokens=False))
            for length in range(1, len(breaker))
        }
        for token, piece in enumerate(tokenizer.pieces):
            if breaker in piece:
                tails: list[tuple[int, ...]] = [()]
            else:
                tails = [rest for beginning, rest in rests.items() if piece.endswith(beginning)]
            known = result.setdefault(token, []) if tails else []
            known += [tail for tail in tails if tail not in known]
    return result


def _repeated_lengths(window: Ids, ends: Ids, limit: int) -> Ids:
    """How many tokens up to each of `ends` are the window's own last ones, at most `limit`."""
    lengths = np.zeros(len(ends), np.int64)
    active: NDArray[np.intp] = np.arange(len(ends))
    start, size = 0, 1  # most differ at once
    while start < limit and active.size:
        back = np.arange(start, min(start + size, limit))
        places = ends[active, None] - back
        same = (window[places] == window[len(window) - 1 - back]) & (places >= 0)
        whole = same.all(axis=1)
        lengths[active] += np.where(whole, len(back), same.argmin(axis=1))
        active = active[whole]
        start, size = start + size, min(4 * size, _BLOCK)
    return lengths
