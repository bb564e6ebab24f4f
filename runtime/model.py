"""Model: the public face of the runtime."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .cache import AnyCache
from .config import GenerationConfig
from .errors import BundleError, MemoryLimitError, OptionError, PromptError
from .generation import PREFILL_CHUNK, Completion, Step, Token, complete, decode, prefill, with_text
from .logits import Logits, processors_for
from .memory import MemoryBudget, format_bytes, parse_bytes
from .random import draw_seed
from .sampling import Sampler
from .scoring import Score, score_tokens
from .session import Session
from .tokenizer import StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from .chat import Message

Prompt = str | Sequence[int] | NDArray[np.integer[Any]]


class Model:
    """A bundle that generates text. One model may serve many threads: each call owns its state.

    >>> import onnxgpt
    >>> model = onnxgpt.load("fairytale")
    >>> model.generate("Once upon a time", max_new_tokens=3, seed=7)[0].completion_tokens
    3
    """

    def __init__(self, bundle: Bundle, session: Session, tokenizer: Tokenizer):
        self.bundle = bundle
        self.session = session
        self.tokenizer = tokenizer
        self.context_length = bundle.manifest.context_length
        self.generation_defaults = _generation_defaults(bundle)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        provider: str = "auto",
        threads: int | None = None,
        memory_limit: int | str | None = None,
    ) -> Model:
        """Load the bundle in a directory.

        Args:
            path: the bundle.
            provider: `cpu`, `cuda`, `dml`, or `auto` for the one that the bundle was exported for.
            threads: threads inside an operator; None lets ONNX Runtime choose.
            memory_limit: most bytes for weights and caches together (or text such as "500MB"); None: no limit.

        Raises:
            BundleError: the bundle is missing, damaged or of another version.
            ProviderError: the provider is not there.
            MemoryLimitError: the weights alone are over the limit; nothing was loaded.
        """
        bundle = Bundle.open(path)
        budget = MemoryBudget(None if memory_limit is None else parse_bytes(memory_limit))
        budget.reserve(bundle.weight_bytes, f"loading the weights of {bundle.manifest.name}")
        tokenizer = Tokenizer(bundle.tokenizer_path)
        graph = bundle.manifest.graph
        session = Session.open(
            bundle.graph_path,
            provider=provider,
            target=graph.target,
            threads=threads,
            shares_cache_buffer=graph.shares_cache_buffer,
            budget=budget,
        )
        return cls(bundle, session, tokenizer)

    def generate(self, prompt: Prompt, **options: Any) -> list[Completion]:
        """Generate the continuation of a prompt: `num_return_sequences` of them, one by default.

        Args:
            prompt: a text or token ids.
            options: fields of GenerationConfig; what is not given comes from the bundle's generation_config.json.

        Raises:
            PromptError: an empty prompt, or one that leaves no room in the context.
            OptionError: an unknown option, a value out of range, or an option without effect.
            MemoryLimitError: the context asked for does not fit; the largest that fits is named.
        """
        request = self._request(prompt, options)
        with closing(self._new_cache(request)) as cache:
            started = time.perf_counter()
            logits = prefill(self.session, cache, request.ids, self._chunk).copy()
            seconds = time.perf_counter() - started
            last = request.config.num_return_sequences - 1
            completions = []
            for sequence in range(last + 1):
                branch = cache if sequence == last else cache.copy()
                tokens = request.tokens(self, branch, logits, sequence)
                try:
                    completions.append(complete(tokens, len(request.ids), request.seed, seconds))
                finally:
                    branch.close()
            return completions

    def stream(self, prompt: Prompt, **options: Any) -> TokenStream:
        """Generate one continuation token by token.

        Args and errors as `generate`. Leaving the loop early, or `close()`, cancels and frees the cache.
        """
        request = self._request(prompt, options)
        if request.config.num_return_sequences > 1:
            raise OptionError(
                f"num_return_sequences is {request.config.num_return_sequences}: a stream is one sequence; use generate"
            )
        return TokenStream(self._stream(request), request.seed, len(request.ids))

    def _stream(self, request: _Request) -> Iterator[Token]:
        with closing(self._new_cache(request)) as cache:
            logits = prefill(self.session, cache, request.ids, self._chunk)
            yield from request.tokens(self, cache, logits, 0)

    def logits(self, token_ids: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Logits of every position: float32 [sequence, vocabulary].

        Raises:
            PromptError: no ids, ids outside the vocabulary, or more than the context holds.
        """
        ids = self._check_ids(token_ids)
        result = np.empty((len(ids), self.session.spec.vocab_size), np.float32)
        with closing(self.session.new_cache(capacity=len(ids), limit=len(ids))) as cache:
            for start in range(0, len(ids), self._chunk):
                chunk = np.asarray(ids[start : start + self._chunk], np.int64)[None]
                result[start : start + self._chunk] = self.session.step(chunk, cache, keep=0)[0]
        return result

    def score(self, text: Prompt) -> Score:
        """Log-probabilities of a text's tokens, their sum, and the perplexity.

        Raises:
            PromptError: fewer than two tokens, or more than the context holds.
        """
        ids = self._encode(text)
        if len(ids) < 2:
            raise PromptError("the text has one token: expected two or more, since the first has nothing before it")
        with closing(self.session.new_cache(capacity=len(ids), limit=len(ids))) as cache:
            return score_tokens(self.session, cache, ids)

    def chat_prompt(self, messages: str | Sequence[Message]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn, by the bundle's own chat template.

        Args:
            messages: one user's text, or messages with "role" and "content".

        Raises:
            PromptError: the bundle has no chat template, or its template refuses the messages.
        """
        from .chat import ChatTemplate  # here, so that text without a template starts faster

        turns: Sequence[Message] = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        text = ChatTemplate.of_bundle(self.bundle).render(turns)
        return self.tokenizer.encode(text, add_special_tokens=False)

    @property
    def _chunk(self) -> int:
        return PREFILL_CHUNK if self.bundle.manifest.graph.chunked_prefill else self.context_length

    def _request(self, prompt: Prompt, options: dict[str, Any]) -> _Request:
        config = GenerationConfig.resolve(self.generation_defaults, options)
        ids = self._encode(prompt)
        if len(ids) >= self.context_length:
            raise PromptError(
                f"the prompt has {len(ids)} tokens and the context {self.context_length}: expected at least one token "
                "of room; shorten the prompt"
            )
        limit = config.new_token_limit(len(ids), self.context_length)
        seed = None if config.is_greedy else draw_seed() if config.seed is None else config.seed
        return _Request(ids, config, limit, seed)

    def _encode(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            return self._check_ids(prompt)
        if not prompt:
            raise PromptError("the prompt is empty: expected text or token ids")
        return self._check_ids(self.tokenizer.encode(prompt))

    def _check_ids(self, token_ids: Sequence[int] | NDArray[np.integer[Any]]) -> list[int]:
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
        vocabulary = self.session.spec.vocab_size
        if array.min() < 0 or array.max() >= vocabulary:
            wrong = int(array.min() if array.min() < 0 else array.max())
            raise PromptError(f"token id {wrong} is not in the vocabulary: expected 0 to {vocabulary - 1}")
        if len(array) > self.context_length:
            raise PromptError(
                f"{len(array)} tokens are more than the context's {self.context_length}: shorten the text"
            )
        return [int(token) for token in array]

    def _new_cache(self, request: _Request) -> AnyCache:
        asked = len(request.ids) + request.limit
        per_token = self.session.spec.layout.bytes_per_token()
        available = self.session.budget.available
        copies = min(2, request.config.num_return_sequences) * (1 if self.session.shares_cache_buffer else 2)
        if available is not None and asked * per_token * copies > available:
            raise MemoryLimitError(
                f"a context of {asked} tokens needs {format_bytes(asked * per_token * copies)} and "
                f"{format_bytes(available)} are left under the memory limit: the largest context that fits has "
                f"{available // (per_token * copies)} tokens; "
                "lower max_new_tokens, shorten the prompt or raise the limit"
            )
        return self.session.new_cache(capacity=min(asked, len(request.ids) + 64), limit=asked)


class TokenStream(Iterator[Token]):
    """The tokens of one generation as they come. Also a context manager; closing it cancels the generation."""

    def __init__(self, tokens: Iterator[Token], seed: int | None, prompt_tokens: int):
        self._tokens = tokens
        self.seed = seed  # repeats a sampled text; None when greedy
        self.prompt_tokens = prompt_tokens

    def __next__(self) -> Token:
        return next(self._tokens)

    def close(self) -> None:
        """Cancel: no more tokens come, and the cache's memory is free."""
        self._tokens.close()  # type: ignore[attr-defined]  # a generator

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Request:
    """A checked call: prompt ids, options, how many new tokens at most, and the seed."""

    def __init__(self, ids: list[int], config: GenerationConfig, limit: int, seed: int | None):
        self.ids = ids
        self.config = config
        self.limit = limit
        self.seed = seed

    def steps(self, model: Model, cache: AnyCache, logits: Logits, sequence: int) -> Iterator[Step]:
        sampler = Sampler(is_greedy=self.config.is_greedy, seed=self.seed or 0, sequence=sequence)
        pipeline = processors_for(
            self.config,
            vocabulary_size=model.session.spec.vocab_size,
            context_length=model.context_length,
            tokenizer=model.tokenizer,
            seed=self.seed,
        )
        return decode(model.session, cache, logits, self.ids, self.config, pipeline, sampler, self.limit)

    def tokens(self, model: Model, cache: AnyCache, logits: Logits, sequence: int) -> Iterator[Token]:
        decoder = StreamDecoder(model.tokenizer, context=self.ids)
        return with_text(self.steps(model, cache, logits, sequence), decoder, self.config.stop_strings)


def _generation_defaults(bundle: Bundle) -> dict[str, Any]:
    defaults = bundle.read_json("generation_config.json")
    if defaults.get("eos_token_id") is None:
        defaults["eos_token_id"] = bundle.read_json("config.json").get("eos_token_id")
    try:
        GenerationConfig.resolve(defaults, {})
    except OptionError as error:
        raise BundleError(f"{bundle.directory / 'generation_config.json'}: {error}") from error
    return defaults
