"""What is measured, and the figures that the replies of a worker make."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

# Prompts are random ids from the middle of a vocabulary: the time does not depend on what they say, and no two prompts
# of a run are the same, so that no runtime can answer from a cache of prompts.
_FIRST_ID = 200
_LEAST_STEPS = 16  # fewer new tokens tell nothing of a rate


@dataclass(frozen=True)
class Workload:
    """One kind of generation: rows of a prompt's length, and new tokens."""

    key: str
    title: str
    prompt_tokens: int
    new_tokens: int = 1
    rows: int = 1
    repeats: int = 1  # within one turn, of which the median counts; short ones need it

    @property
    def is_prefill(self) -> bool:
        """Whether reading the prompt is what is measured."""
        return self.new_tokens == 1

    def within(self, context: int) -> Workload | None:
        """The same with no more new tokens than a context holds; None when there is no room for what is measured."""
        room = context - self.prompt_tokens
        if room < min(self.new_tokens, _LEAST_STEPS):
            return None
        return replace(self, new_tokens=min(self.new_tokens, room))


WORKLOADS = (
    Workload("prefill_16", "prefill 16", 16, repeats=5),
    Workload("prefill_64", "prefill 64", 64, repeats=5),
    Workload("prefill_512", "prefill 512", 512),
    Workload("decode_64", "decode after 64", 64, new_tokens=128),
    Workload("decode_1000", "decode after 1,000", 1000, new_tokens=128),
    Workload("decode_batch_8", "decode, batch 8", 64, new_tokens=128, rows=8),
)


def prompts(rng: random.Random, rows: int, length: int, vocabulary: int) -> list[list[int]]:
    """Random token ids, `rows` of them."""
    return [[rng.randrange(min(_FIRST_ID, vocabulary - 1), vocabulary) for _ in range(length)] for _ in range(rows)]


def tokens_per_second(workload: Workload, replies: list[dict[str, Any]]) -> float:
    """The rate of all rows together, of the median repeat; a prompt's includes choosing the first new token.

    Raises:
        ValueError: the runtime gave too few tokens to time a step.
    """
    if workload.is_prefill:
        return workload.rows * workload.prompt_tokens / median(float(reply["first_seconds"]) for reply in replies)
    if any(reply["rest_tokens"] < 1 for reply in replies):
        raise ValueError("gave fewer than two tokens")
    return workload.rows * median(float(reply["rest_tokens"] / reply["rest_seconds"]) for reply in replies)
