"""Request: a checked call to generate: prompts, options and seed, and the rows that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .cache import UNLIMITED
from .config import GenerationConfig
from .errors import PromptError
from .logits import Pipeline, processors_for
from .random import draw_seed
from .row import Row
from .sampling import Sampler
from .stopping import Interruption
from .tokenizer import StreamDecoder, Tokenizer

Prompt = str | Sequence[int] | NDArray[np.integer[Any]]
Prompts = Prompt | Sequence[Prompt]


@dataclass(frozen=True)
class Encoder:
    """Turns prompts into token ids that the model takes, or refuses them."""

    tokenizer: Tokenizer
    vocabulary_size: int
    context_length: int

    def encode_all(self, prompts: Prompts) -> list[list[int]]:
        """Token ids of each prompt; one prompt is a list of one.

        Raises:
            PromptError: no prompt, or one that `encode` refuses; which one is said where there are several.
        """
        if not _are_several(prompts):
            return [self.encode(cast(Prompt, prompts))]
        if len(prompts) == 1:
            return [self.encode(cast(Prompt, prompts[0]))]
        encoded = []
        for index, prompt in enumerate(prompts):
            try:
                encoded.append(self.encode(cast(Prompt, prompt)))
            except PromptError as error:
                raise PromptError(f"prompt {index}: {error}") from error
        return encoded

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of one prompt.

        Raises:
            PromptError: it is empty, no text and no list of ids, or holds an id outside the vocabulary.
        """
        if isinstance(prompt, str):
            if not prompt:
                raise PromptError("the prompt is empty: expected text or token ids")
            prompt = self.tokenizer.encode(prompt)
        return self.check_ids(prompt)

    def check_ids(self, token_ids: Sequence[int] | NDArray[np.integer[Any]]) -> list[int]:
        """The ids as a list of whole numbers.

        Raises:
            PromptError: none, not whole numbers, or outside the vocabulary.
        """
        try:
            array = np.asarray(token_ids)
        except ValueError as error:
            raise PromptError("the prompt is a ragged list: expected one text or one list of token ids") from error
        if array.size == 0:
            raise PromptError("the prompt is empty: expected text or token ids")
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise PromptError(
                f"the prompt is an array of {array.dtype} with {array.ndim} dimensions: "
                "expected one text or one list of token ids"
            )
        if array.min() < 0 or array.max() >= self.vocabulary_size:
            wrong = int(array.min() if array.min() < 0 else array.max())
            raise PromptError(f"token id {wrong} is not in the vocabulary: expected 0 to {self.vocabulary_size - 1}")
        return [int(token) for token in array]

    def require_fit(self, ids: Sequence[int]) -> None:
        """Refuse ids that the context can't hold.

        Raises:
            PromptError: too many.
        """
        if len(ids) > self.context_length:
            raise PromptError(f"{len(ids)} tokens are more than the context's {self.context_length}: shorten the text")


@dataclass(frozen=True)
class Request:
    """A checked call: each prompt's token ids and most new tokens, the options, and the seed that draws."""

    prompts: list[list[int]]
    limits: list[int]
    config: GenerationConfig
    seed: int | None  # None when greedy
    encoder: Encoder

    @classmethod
    def make(cls, prompts: Prompts, config: GenerationConfig, encoder: Encoder) -> Request:
        """Check prompts against the options.

        Raises:
            PromptError: a prompt that is none, or that leaves no room in the context.
            OptionError: `max_length` leaves no room.
        """
        encoded = encoder.encode_all(prompts)
        limits = []
        for index, ids in enumerate(encoded):
            if len(ids) >= encoder.context_length:
                which = f"prompt {index}" if len(encoded) > 1 else "the prompt"
                raise PromptError(
                    f"{which} has {len(ids)} tokens and the context {encoder.context_length}: expected at least one "
                    "token of room; shorten the prompt"
                )
            end = UNLIMITED if config.context_end == "slide" else encoder.context_length
            limits.append(config.new_token_limit(len(ids), end))
        seed = None if config.is_greedy else draw_seed() if config.seed is None else config.seed
        return cls(encoded, limits, config, seed, encoder)

    @property
    def longest(self) -> int:
        """The most tokens that any row may hold at once, prompt included."""
        lengths = (len(ids) + limit for ids, limit in zip(self.prompts, self.limits, strict=True))
        return min(max(lengths), self.encoder.context_length)

    @property
    def row_count(self) -> int:
        """How many sequences are asked for, of all prompts."""
        return len(self.prompts) * self.config.num_return_sequences

    def rows(self, interruption: Interruption) -> list[Row]:
        """The rows that this asks for, prompt by prompt, none of them begun."""
        return [
            self._row(prompt, sequence, interruption)
            for prompt in range(len(self.prompts))
            for sequence in range(self.config.num_return_sequences)
        ]

    def _row(self, prompt: int, sequence: int, interruption: Interruption) -> Row:
        ids, limit = self.prompts[prompt], self.limits[prompt]
        is_cut = limit < self.config.new_token_limit(len(ids), UNLIMITED)
        return Row(
            ids,
            self.config,
            limit=limit,
            limit_reason="context" if is_cut else "length",
            sampler=Sampler(is_greedy=self.config.is_greedy, seed=self.seed or 0, sequence=sequence),
            interruption=interruption,
            decoder=StreamDecoder(self.encoder.tokenizer, context=ids),
            prompt_index=prompt,
        )

    def pipeline(self, least_kept: int = 1) -> Pipeline:
        """The logits processors that the options ask for; filters leave `least_kept` tokens at least."""
        return processors_for(
            self.config,
            vocabulary_size=self.encoder.vocabulary_size,
            context_length=UNLIMITED if self.config.context_end == "slide" else self.encoder.context_length,
            tokenizer=self.encoder.tokenizer,
            seed=self.seed,
            least_kept=least_kept,
        )


def _are_several(prompts: Prompts) -> bool:
    """Whether these are prompts, not one prompt: their elements are texts or lists themselves."""
    if isinstance(prompts, str):
        return False
    if isinstance(prompts, np.ndarray):
        return prompts.ndim == 2
    return isinstance(prompts, Sequence) and len(prompts) > 0 and isinstance(prompts[0], str | Sequence | np.ndarray)
