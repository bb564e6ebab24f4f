"""What `onnxgpt bench` measures: loading, the first token, the rates of prefill and decoding, peak memory."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .runtime.errors import PromptError
from .runtime.memory import format_bytes
from .terminal import Progress

if TYPE_CHECKING:
    from .runtime.model import Model


@dataclass(frozen=True)
class Measurement:
    """Medians of the runs after the warm-up. Seconds, tokens per second, bytes."""

    model: str
    dtype: str
    provider: str
    prompt_tokens: int
    new_tokens: int
    repeat: int
    load_seconds: float  # reading the bundle and making the session; the libraries were imported before
    first_token_seconds: float  # from the call to the first token
    prefill_tokens_per_second: float  # prompt tokens over the time to the first token
    decode_tokens_per_second: float  # new tokens but the first, over the time after the first
    peak_memory_bytes: int | None  # of this process, libraries included; None where the system does not tell
    libraries_memory_bytes: int | None  # the same peak before the model was loaded

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        rows = [
            ("model", f"{self.model} ({self.dtype}, {self.provider})"),
            ("runs", f"{self.repeat}, {self.prompt_tokens} prompt tokens, {self.new_tokens} new tokens each"),
            ("load", f"{self.load_seconds * 1e3:.0f} ms"),
            ("first token", f"{self.first_token_seconds * 1e3:.1f} ms"),
            ("prefill", f"{self.prefill_tokens_per_second:.1f} tokens/s"),
            ("decode", f"{self.decode_tokens_per_second:.1f} tokens/s"),
        ]
        if self.peak_memory_bytes is not None and self.libraries_memory_bytes is not None:
            peak, libraries = format_bytes(self.peak_memory_bytes), format_bytes(self.libraries_memory_bytes)
            rows.append(("peak memory", f"{peak}, of which the libraries {libraries}"))
        return rows


def measure(
    load: Callable[[], Model], *, prompt_tokens: int, new_tokens: int, repeat: int, progress: Progress | None = None
) -> Measurement:
    """Load a model and generate greedily `1 + repeat` times; the first time warms up and is not counted.

    Raises:
        PromptError: the context has no room for so many tokens.
    """
    from .runtime import model as _  # noqa: F401  # the libraries, so that they are not counted as loading

    libraries = peak_memory()
    started = time.perf_counter()
    model = load()
    load_seconds = time.perf_counter() - started
    if prompt_tokens + new_tokens > model.context_length:
        raise PromptError(
            f"{prompt_tokens} prompt tokens and {new_tokens} new ones do not fit the context of "
            f"{model.context_length}: lower --prompt-tokens or --new-tokens"
        )
    # Any ids do: the time does not depend on what they say. Spread, so that embeddings are not always the same.
    vocabulary = model.session.spec.vocab_size
    prompt = [index * 7919 % vocabulary for index in range(prompt_tokens)]
    firsts, decodes = [], []
    for run in range(1 + repeat):
        if progress is not None:
            progress("warming up" if run == 0 else f"run {run} of {repeat}", run / (1 + repeat))
        first, rest = _time_generation(model, prompt, new_tokens)
        if run > 0:
            firsts.append(first)
            decodes.append(rest)
    manifest = model.bundle.manifest
    return Measurement(
        model=manifest.name,
        dtype=manifest.graph.dtype,
        provider=model.session.provider,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeat=repeat,
        load_seconds=load_seconds,
        first_token_seconds=statistics.median(firsts),
        prefill_tokens_per_second=prompt_tokens / statistics.median(firsts),
        decode_tokens_per_second=(new_tokens - 1) / statistics.median(decodes),
        peak_memory_bytes=peak_memory(),
        libraries_memory_bytes=libraries,
    )


def _time_generation(model: Model, prompt: list[int], new_tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and from there to the last. End-of-text ids don't end it."""
    started = time.perf_counter()
    with model.stream(prompt, do_sample=False, max_new_tokens=new_tokens, eos_token_id=()) as tokens:
        next(tokens)
        first = time.perf_counter()
        for _ in tokens:
            pass
    return first - started, time.perf_counter() - first


def peak_memory() -> int | None:
    """The most bytes that this process has had in memory so far, None where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            # Not getrusage: on Linux its maximum is inherited from the program that started this one.
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
