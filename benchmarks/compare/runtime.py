"""What a runtime under comparison must do. Subclasses live in `peers` and run in their own environment's process.

Standard library and numpy only: this module is imported in every peer's environment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

Prompts = Sequence[Sequence[int]]  # rows of token ids, all of one length


class OnStep(Protocol):
    """Told of every step: each row's new token, and when it was there if not just now. Returns whether to stop."""

    def __call__(self, tokens: Sequence[int], at: float | None = None, /) -> bool:
        """`at` in seconds of `time.perf_counter`."""
        ...


class NotMeasuredError(Exception):
    """This runtime can't do what was asked for; the message says why, for the table."""


class Runtime(ABC):
    """One model in one runtime. The constructor does nothing; importing and loading are timed apart."""

    # Most tokens of context that the commands of a comparison ask for: runtimes that size their cache beforehand
    # take this, all the same.
    context = 1280

    def __init__(self, model: Path, threads: int):
        self.model = model
        self.threads = threads

    @abstractmethod
    def import_libraries(self) -> None:
        """Import what the runtime needs, and nothing else."""

    @abstractmethod
    def load(self) -> None:
        """Make the model ready to generate."""

    @abstractmethod
    def generate(self, prompts: Prompts, new_tokens: int, on_step: OnStep) -> None:
        """Read prompts from empty caches, then generate greedily; end-of-text tokens do not end it.

        `on_step` is called as soon as each row's new token is known, the first time right after the prompts were read.

        Raises:
            NotMeasuredError: the runtime takes one sequence at a time.
        """

    def logits(self, token_ids: Sequence[int]) -> Any:
        """float32 [sequence, vocabulary], as the runtime itself computes them for a prompt.

        Raises:
            NotMeasuredError: the runtime does not give logits away.
        """
        raise NotMeasuredError("gives no logits of a prompt")
