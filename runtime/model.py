"""Model: the public face of the runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from .beam_generation import BeamGeneration
from .bundle import Bundle
from .cache import AnyCache
from .config import GenerationConfig
from .errors import BundleError, MemoryLimitError, OptionError, PromptError
from .foreign import open_any
from .generation import Batch, generate_rows
from .memory import MemoryBudget, format_bytes, parse_bytes
from .reading import PREFILL_CHUNK, Reader
from .request import Encoder, Prompt, Prompts, Request
from .results import Completion, Token
from .row import Row
from .scoring import CandidateScore, CandidateScorer, Score, check_window, score_in_windows, score_tokens
from .session import Session
from .settings import SessionSettings
from .speculation import NewDrafter, Speculation, drafting_for
from .stopping import Cancellation, Interruption
from .streaming import TokenStream
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .chat import Message


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
        self._encoder = Encoder(tokenizer, session.spec.vocab_size, self.context_length)
        self.generation_defaults = generation_defaults(bundle)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        provider: str = "auto",
        threads: int | None = None,
        memory_limit: int | str | None = None,
        low_power: bool = False,
        *,
        device: int | None = None,
        provider_options: Mapping[str, object] | None = None,
        allow_fallback: bool = False,
        cuda_graph: bool = False,
    ) -> Model:
        """Load the bundle in a directory, or what another exporter wrote there (see `runtime.foreign`).

        Args:
            path: the bundle; of another exporter's directory also the graph itself, where it holds several.
            provider: `cpu`, `cuda`, `dml`, or `auto`: what the bundle was made for, if that is there, else the CPU.
            threads: threads inside an operator; None: one per physical core, within the process's CPU quota.
            memory_limit: most bytes for weights and caches together (or text such as "500MB"); None: no limit.
            low_power: half as many threads unless `threads` says how many, and those that wait for one another sleep at
                once instead of spinning: less processor time for each token, and fewer tokens a second.
            device: the number of a CUDA or DirectML device; None: the first.
            provider_options: ONNX Runtime's own options of the provider (see `runtime.provider_options`).
            allow_fallback: run even where a device lacks kernels for many nodes, which the CPU computes then.
            cuda_graph: record a decode step on a CUDA device once, and replay it.

        Raises:
            BundleError: the bundle is missing, damaged or of another version.
            ProviderError: the provider is not there, or would not run the bundle.
            OptionError: an option of a device without one, or a provider option that is none.
            MemoryLimitError: the weights alone are over the limit, where nothing was loaded, or over what a device has.
        """
        settings = SessionSettings(
            provider=provider,
            threads=threads,
            low_power=low_power,
            device=device,
            provider_options=provider_options or {},
            allow_fallback=allow_fallback,
            cuda_graph=cuda_graph,
        )
        return cls.open(path, settings, memory_limit)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], settings: SessionSettings, memory_limit: int | str | None = None
    ) -> Model:
        """Load a bundle with settings that are made already. Args and errors as `load`."""
        bundle = open_any(path)
        budget = MemoryBudget(None if memory_limit is None else parse_bytes(memory_limit))
        budget.reserve(bundle.weight_bytes, f"loading the weights of {bundle.manifest.name}")
        tokenizer = Tokenizer(bundle.tokenizer_path)
        return cls(bundle, Session.open_bundle(bundle, settings, budget), tokenizer)

    def generate(
        self,
        prompts: Prompts,
        *,
        on_token: Callable[[Token], object] | None = None,
        cancellation: Cancellation | None = None,
        batch_size: int | None = None,
        assistant: Model | None = None,
        **options: Any,
    ) -> list[Completion]:
        """Generate continuations: of each prompt `num_return_sequences`, one by default.

        Prompts are read one by one and then stepped together; a row's result does not depend on the others.

        At the context's end a sequence stops. With `context_end="slide"` it goes on: when the context is full, its
        first `context_keep` tokens stay (of the prompt, and two fewer than the context at most), of the others the
        oldest half is dropped, and what is left is read again as a text that begins at position 0. So the next tokens
        are what the model gives for that window, whatever its positions are. Penalties go on to see all tokens.

        Args:
            prompts: a text, a list of token ids, or a list of either.
            on_token: is given each token as it comes; a sequence for which it returns True ends there, with the finish
                reason "callback". Other return values go on.
            cancellation: ends the call from another thread; what has come by then is the result.
            batch_size: rows to hold in memory at once; the others wait until one ends. None: all of them. With 1, rows
                are computed as they are alone; with more, an 8-bit model rounds otherwise, but always in the same way.
            assistant: a smaller model with the same vocabulary, which drafts tokens that this one checks several at
                once: the same text, faster where they agree. For a single row at a time.
            options: fields of GenerationConfig; what is not given comes from the bundle's generation_config.json.

        Returns:
            Completions prompt by prompt, each prompt's sequences together; with `num_beams` the best first.

        Raises:
            PromptError: an empty prompt, or one that leaves no room in the context.
            OptionError: an unknown option, a value out of range, or an option without effect.
            MemoryLimitError: the context asked for does not fit; the largest that fits is named.
        """
        request = self._request(prompts, options)
        drafting = self._drafting(request, options, assistant, batch_size)
        if request.config.num_beams > 1:
            for name, given in (("on_token", on_token), ("batch_size", batch_size)):
                if given is not None:
                    raise OptionError(
                        f"{name} has no effect with num_beams: a prompt's beams are searched together, and their texts "
                        f"are known at the end; leave {name} out, or num_beams"
                    )
            return self._search(request, cancellation or Cancellation())
        rows, tokens = self._start(request, cancellation or Cancellation(), batch_size, drafting)
        with closing(tokens):
            for token in tokens:
                if on_token is not None and on_token(token) is True:
                    rows[token.row].end("callback")
        return [row.completion(request.seed) for row in rows]

    def stream(
        self, prompts: Prompts, *, batch_size: int | None = None, assistant: Model | None = None, **options: Any
    ) -> TokenStream:
        """Generate token by token; where there are several rows, each token tells its row.

        Args and errors as `generate`. Leaving the loop early, or `close()`, cancels and frees the cache.
        """
        request = self._request(prompts, options)
        if request.config.num_beams > 1:
            raise OptionError(
                f"num_beams is {request.config.num_beams}: a stream has no beams, whose texts are known at the end; "
                "use generate, or give num_beams=1"
            )
        drafting = self._drafting(request, options, assistant, batch_size)
        cancellation = Cancellation()
        rows, tokens = self._start(request, cancellation, batch_size, drafting)
        return TokenStream(tokens, rows, request, cancellation)

    def _drafting(
        self, request: Request, options: dict[str, Any], assistant: Model | None, batch_size: int | None
    ) -> NewDrafter | None:
        """What makes the drafter of a call that speculates."""
        rows = request.row_count if batch_size is None else min(batch_size, request.row_count)
        given = [name for name, value in options.items() if value is not None]
        return drafting_for(self, assistant, request, given, rows)

    def _search(self, request: Request, cancellation: Cancellation) -> list[Completion]:
        interruption = Interruption(cancellation, request.config.max_time)
        with closing(self._new_cache(request, request.config.num_beams)) as cache:
            padding = self.generation_defaults.get("pad_token_id")
            return BeamGeneration(self.session, cache, request, interruption, chunk=self._chunk, padding=padding).run()

    def _start(
        self, request: Request, cancellation: Cancellation, batch_size: int | None, drafting: NewDrafter | None
    ) -> tuple[list[Row], Generator[Token, None, None]]:
        """The rows of a request, and what generates them when it is iterated."""
        size = request.row_count if batch_size is None else batch_size
        if size < 1:
            raise OptionError(f"batch_size is {size}: expected 1 or more")
        interruption = Interruption(cancellation, request.config.max_time)
        rows = request.rows(interruption)
        return rows, self._generate(request, rows, size, interruption, drafting)

    def _generate(
        self,
        request: Request,
        rows: list[Row],
        size: int,
        interruption: Interruption,
        drafting: NewDrafter | None,
    ) -> Generator[Token, None, None]:
        pipeline = request.pipeline()
        held = min(size, len(rows))
        places = 1 if size == 1 or drafting is not None else held + held % 2  # see Batch._add_companion
        make: Callable[..., Batch] = Batch
        with ExitStack() as stack:
            cache = stack.enter_context(closing(self._new_cache(request, places)))
            if drafting is not None:
                drafter = stack.enter_context(closing(drafting(pipeline, interruption)))
                make = partial(Speculation, drafter)
            batch = make(
                self.session,
                cache,
                request.config,
                pipeline,
                interruption,
                chunk=self._chunk,
                context_length=self.context_length,
            )
            yield from generate_rows(batch, rows, size)

    def logits(self, token_ids: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Logits of every position: float32 [sequence, vocabulary].

        Raises:
            PromptError: no ids, ids outside the vocabulary, or more than the context holds.
        """
        ids = self._encoder.check_ids(token_ids)
        self._encoder.require_fit(ids)
        result = np.empty((len(ids), self.session.spec.vocab_size), np.float32)
        with closing(self.session.new_cache(capacity=len(ids), limit=len(ids))) as cache:
            size = self._chunk or len(ids)
            for start in range(0, len(ids), size):
                chunk = np.asarray(ids[start : start + size], np.int64)[None]
                result[start : start + size] = self.session.step(chunk, cache, keep=0)[0]
        return result

    @overload
    def score(self, text: Prompt, *, window: int | None = None, stride: int | None = None) -> Score: ...

    @overload
    def score(self, text: Prompt, candidates: Sequence[Prompt]) -> list[CandidateScore]: ...

    def score(
        self,
        text: Prompt,
        candidates: Sequence[Prompt] | None = None,
        *,
        window: int | None = None,
        stride: int | None = None,
    ) -> Score | list[CandidateScore]:
        """Log-probabilities of a text's tokens, their sum, and the perplexity; or of candidates behind the text.

        Args:
            text: a text or token ids.
            candidates: what to score behind the text, which is read once; the result is a list in their order. Each is
                tokenized together with the text: see `CandidateScore`.
            window: tokens read as one text, where a `stride` is given; None: the context.
            stride: reads a text that is longer than a window in windows that begin every `stride` tokens; each token is
                scored once, from the second window on with at least `window` - `stride` tokens before it.

        Raises:
            PromptError: fewer than two tokens, more than the context holds without a stride, or no sound candidates.
            OptionError: a window or stride that makes no sense, or has no effect.
        """
        if stride is None and window is not None:
            raise OptionError("window has no effect without a stride: give both, or leave window out")
        if candidates is not None:
            if stride is not None:
                raise OptionError("stride has no effect with candidates: they and the text have to fit the context")
            with self.candidate_scorer() as scorer:
                return scorer.score(text, candidates)
        ids = self._encoder.encode(text)
        if len(ids) < 2:
            raise PromptError("the text has one token: expected two or more, since the first has nothing before it")
        if stride is None and len(ids) > self.context_length:
            raise PromptError(
                f"{len(ids)} tokens are more than the context's {self.context_length}: "
                "shorten the text, or give a stride to read it in windows"
            )
        if stride is not None:
            window, stride = check_window(window, stride, self.context_length)
        length = min(len(ids), window or len(ids))
        reader = Reader(self.session, self._chunk)
        with closing(self.session.new_cache(capacity=length, limit=length)) as cache:
            if stride is None or window is None:
                return score_tokens(reader, cache, ids)
            return score_in_windows(reader, cache, ids, window, stride)

    def candidate_scorer(self) -> CandidateScorer:
        """What scores candidates behind many prompts, and reads only once what prompts in a row begin with."""
        return CandidateScorer(self.session, self._encoder, self._chunk)

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
    def _chunk(self) -> int | None:
        """Tokens to read at once; None: the graph reads any text in one piece only."""
        return PREFILL_CHUNK if self.bundle.manifest.graph.chunked_prefill else None

    def _request(self, prompts: Prompts, options: dict[str, Any]) -> Request:
        return Request.make(prompts, GenerationConfig.resolve(self.generation_defaults, options), self._encoder)

    def _new_cache(self, request: Request, rows: int) -> AnyCache:
        """An empty cache for so many rows of a request."""
        longest, per_token = request.longest, self.session.spec.layout.bytes_per_token()
        # Without a shared buffer, past and present are there at once, and those of a row that is read into its batch.
        copies = rows if self.session.shares_cache_buffer else 2 * rows + (2 if rows > 1 else 0)
        available = self.session.budget.available
        if available is not None and longest * per_token * copies > available:
            what = f"a context of {longest} tokens" if rows == 1 else f"{rows} rows of {longest} tokens"
            several = "num_beams" if request.config.num_beams > 1 else "batch_size"
            raise MemoryLimitError(
                f"{what} need{'s' if rows == 1 else ''} {format_bytes(longest * per_token * copies)} and "
                f"{format_bytes(available)} are left under the memory limit: the largest context that fits has "
                f"{available // (per_token * copies)} tokens; "
                f"lower max_new_tokens{'' if rows == 1 else f' or {several}'}, shorten the prompt or raise the limit"
            )
        begin = min(longest, max(len(ids) for ids in request.prompts) + 64)
        return self.session.new_cache(batch=rows, capacity=begin, limit=longest)


def generation_defaults(bundle: Bundle) -> dict[str, Any]:
    """What a bundle's `generation_config.json` says, with the end tokens of `config.json` where it names none.

    Raises:
        BundleError: an option there has a value out of range.
    """
    defaults = bundle.read_json("generation_config.json")
    if defaults.get("eos_token_id") is None:
        defaults["eos_token_id"] = bundle.read_json("config.json").get("eos_token_id")
    try:
        GenerationConfig.resolve(defaults, {})
    except OptionError as error:
        raise BundleError(f"{bundle.directory / 'generation_config.json'}: {error}") from error
    return defaults
