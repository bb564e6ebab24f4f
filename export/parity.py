"""Parity: a model in PyTorch against the exported bundle, through the runtime that users run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..graphs.lifting import computable
from ..graphs.precision import FLOAT16_LARGEST
from ..models.checkpoint import Checkpoint, build_gpt
from ..models.config import GPTConfig
from ..models.gpt import GPT
from ..runtime.bundle import Bundle
from ..runtime.engine import ort
from ..runtime.errors import ParityError
from ..runtime.manifest import GraphRecord
from ..runtime.session import Session
from ..runtime.settings import DEFAULT_SETTINGS, SessionSettings
from .peaks import largest_activations

_ON_CPU = SessionSettings(provider="cpu")
TOLERANCE = 1e-3  # in log-probability (natural logarithm), of float32 graphs
# Of the graphs of each type: the largest difference of any token of the vocabulary at any position of prompts of random
# tokens. SmolLM2 in float16 comes to 0.13: its residual stream goes into the thousands. bfloat16 has 8 bits where
# float16 has 11, so that all of its errors are 2**3 times as large.
TOLERANCES = {"float32": TOLERANCE, "float16": 0.2, "bfloat16": 1.6}
# Above this the residual stream is kept in float32, which is where most is lost: SmolLM2 then comes to 0.08.
WIDENED_ABOVE = {"float16": 0.05, "bfloat16": 0.4}
# Of rounded weights in float32 arithmetic, which is what a bfloat16 graph is judged by where nothing computes in
# bfloat16; rounding the weights is a third of the error (SmolLM2 in float16: 0.044).
WEIGHTS_TOLERANCE = 0.5

Logits = NDArray[np.float32]
Progress = Callable[[str, float | None], None]

_LONG_PROMPT = 160  # tokens; the context when that is shorter
_PROMPT = 24
_GREEDY_TOKENS = 64
_STEPS = 32  # of the greedy tokens, so many are compared logit by logit
_RAGGED_STEPS = 8


@dataclass(frozen=True)
class ParityCase:
    """One way of running the model, compared at every position that it gives logits for."""

    name: str
    positions: int
    max_logits_difference: float
    mean_logits_difference: float
    max_log_probability_difference: float  # over the whole vocabulary
    top1_agreement: float  # fraction of the positions; tokens that tie within the tolerance agree
    overflows: int = 0  # positions where the graph's logits hold an infinity or NaN, and PyTorch's do not


@dataclass(frozen=True)
class ParityReport:
    """Whether the exported graph is the model it came from."""

    reference: str
    runtime: str
    tolerance: float
    cases: tuple[ParityCase, ...]
    greedy_tokens: int  # how many tokens were generated greedily on both sides
    greedy_identical: int  # how many of them are the same, from the first on
    greedy_tie: bool  # the first that differs ties, within the tolerance, with PyTorch's choice
    beyond: str | None = None  # of a float16 graph: the matrix whose values leave that type's range, and how far

    @property
    def passed(self) -> bool:
        """Whether every case and the greedy text are within the tolerance."""
        return not self.failures()

    @property
    def largest(self) -> float:
        """The largest difference of a log-probability."""
        return max(case.max_log_probability_difference for case in self.cases)

    @property
    def overflows(self) -> bool:
        """Whether numbers left the range of the graph's type on their way to the logits."""
        return self.beyond is not None or any(case.overflows for case in self.cases)

    def failures(self) -> list[str]:
        """What is over the tolerance, one line each."""
        lines = [] if self.beyond is None else [f"{self.beyond}, and float16 ends at {FLOAT16_LARGEST}"]
        for case in self.cases:
            # `not <=` so that NaN fails
            if not case.max_log_probability_difference <= self.tolerance:
                lines.append(
                    f"{case.name}: log-probabilities differ by {case.max_log_probability_difference:.2g}, "
                    f"expected at most {self.tolerance:g}"
                )
            if case.top1_agreement < 1:
                lines.append(f"{case.name}: top-1 agreement is {case.top1_agreement:.1%}, expected 100%")
        if self.greedy_identical < self.greedy_tokens and not self.greedy_tie:
            lines.append(f"greedy text: {self.greedy_identical} of {self.greedy_tokens} tokens are identical")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        return asdict(self) | {"cases": [asdict(case) for case in self.cases], "passed": self.passed}


def prove_parity(
    bundle: Bundle, checkpoint: Checkpoint, *, stop_above: float | None = None, progress: Progress | None = None
) -> ParityReport:
    """Compare the bundle with the checkpoint in eager PyTorch: whole prompt, single steps, chunks, a ragged batch.

    The prompts are token ids of a linear congruential generator; the single steps follow PyTorch's greedy text.

    Args:
        bundle: what is proven.
        checkpoint: what it was exported from.
        stop_above: end after the whole prompt where that differs by more; the report then has one case.
        progress: is told what goes on.

    Raises:
        ParityError: the bundle's architecture is another than the checkpoint's.
        BundleError: the bundle's graph can't be loaded.
    """
    _check_same_architecture(bundle, checkpoint.config)
    gpt = build_gpt(checkpoint)
    report = prove_against(bundle, GptReference(gpt), stop_above=stop_above, progress=progress)
    graph = bundle.manifest.graph
    return replace(report, beyond=_beyond_float16(gpt, graph)) if graph.dtype == "float16" else report


def _beyond_float16(gpt: GPT, graph: GraphRecord) -> str | None:
    ids = prompt_ids(min(_LONG_PROMPT, gpt.config.context_length), gpt.config.vocab_size)
    with torch.inference_mode():
        peaks = largest_activations(gpt, ids, with_stream=not graph.wide_residual)
    name = max(peaks, key=peaks.__getitem__)
    return f"{name} reaches {peaks[name]:.3g}" if peaks[name] > FLOAT16_LARGEST else None


class Reference(Protocol):
    """The model in eager PyTorch, float32, that a bundle has to be."""

    name: str  # what computes it, and its version
    context_length: int
    vocab_size: int

    def logits(self, ids: Sequence[int]) -> Sequence[Logits]:
        """Logits [vocabulary] of every position of a text."""
        ...

    def greedy_logits(self, prompt: Sequence[int], count: int) -> Sequence[Logits]:
        """Logits [vocabulary] from which each of `count` tokens of the greedy continuation is chosen."""
        ...


class GptReference:
    """Our own GPT as a `Reference`."""

    def __init__(self, gpt: GPT) -> None:
        self.name = f"torch {torch.__version__}"
        self.context_length = gpt.config.context_length
        self.vocab_size = gpt.config.vocab_size
        self._gpt = gpt

    def logits(self, ids: Sequence[int]) -> list[Logits]:
        """See `Reference`."""
        row = torch.tensor([list(ids)])
        logits, _ = self._gpt(row, torch.ones_like(row))
        return list(logits[0].numpy())

    def greedy_logits(self, prompt: Sequence[int], count: int) -> list[Logits]:
        """See `Reference`."""
        ids, past = torch.tensor([list(prompt)]), self._gpt.empty_past(1)
        results: list[Logits] = []
        for step in range(count):
            logits, past = self._gpt(ids, torch.ones((1, len(prompt) + step), dtype=torch.int64), past, 1)
            results.append(logits[0, -1].numpy())
            ids = logits[:, -1:].argmax(dim=-1)
        return results


def prove_against(
    bundle: Bundle, model: Reference, *, stop_above: float | None = None, progress: Progress | None = None
) -> ParityReport:
    """Compare the bundle with a model in eager PyTorch. A graph that reads no text in pieces is not asked to.

    It runs on the provider that it is made for where that has a device, else on the CPU: the very same graph, or, in
    bfloat16, its weights in float32 arithmetic. The report says which.

    Raises:
        BundleError: the bundle's graph can't be loaded.
        ProviderError: no provider here can run it.
    """
    with computable(bundle) as opened:
        return _prove(bundle, opened, model, stop_above, progress)


def _prove(
    bundle: Bundle, opened: Bundle, model: Reference, stop_above: float | None, progress: Progress | None
) -> ParityReport:
    """Prove a bundle by running `opened`, which is the bundle itself or what `computable` makes of it."""
    # Where it is made for, or on the CPU where that is not here; what is made for the CPU there alone.
    session = Session.open_bundle(opened, _ON_CPU if bundle.manifest.graph.target == "cpu" else DEFAULT_SETTINGS)
    tolerance = TOLERANCES.get(bundle.manifest.graph.dtype, TOLERANCE) if opened is bundle else WEIGHTS_TOLERANCE
    report = progress or (lambda message, fraction: None)
    with torch.inference_mode():
        report("comparing a whole prompt with PyTorch", 0.0)
        cases = [_prefill(model, session, tolerance)]
        if stop_above is not None and not cases[0].max_log_probability_difference <= stop_above:
            return ParityReport(model.name, _runtime(bundle, opened, session), tolerance, tuple(cases), 0, 0, False)
        if bundle.manifest.graph.chunked_prefill:
            report("comparing a prompt in chunks with PyTorch", 0.25)
            cases.append(_chunked_prefill(model, session, tolerance))
        report("comparing a ragged batch with PyTorch", 0.5)
        cases.append(_ragged_batch(model, session, tolerance))
        report("comparing single steps with PyTorch", 0.75)
        steps, identical, total, tie = _greedy_steps(model, session, tolerance)
        cases.insert(1, steps)
    return ParityReport(
        reference=model.name,
        runtime=_runtime(bundle, opened, session),
        tolerance=tolerance,
        cases=tuple(cases),
        greedy_tokens=total,
        greedy_identical=identical,
        greedy_tie=tie,
    )


def _runtime(bundle: Bundle, opened: Bundle, session: Session) -> str:
    """What ran, and what the graph that ran is not of the graph that is proven."""
    how = "" if opened is bundle else f": {bundle.manifest.graph.dtype} weights in float32 arithmetic"
    return f"onnxruntime {ort.__version__}, {session.provider}{how}"


def compare(name: str, expected: Sequence[Logits], found: Sequence[Logits], tolerance: float = TOLERANCE) -> ParityCase:
    """Compare two sequences of logits, each [vocabulary], position by position."""
    largest = total = largest_probability = 0.0
    agreed = overflows = 0
    for ours, theirs in zip(found, expected, strict=True):
        overflows += bool(np.isfinite(theirs).all() and not np.isfinite(ours).all())
        with np.errstate(invalid="ignore"):  # of infinities, which come out as NaN and fail
            difference = np.abs(ours.astype(np.float64) - theirs)
            ours_log, theirs_log = _log_softmax(ours), _log_softmax(theirs)
        largest = float(np.maximum(largest, difference.max()))  # unlike max(), np.maximum hands NaN on
        total += float(difference.mean())
        largest_probability = float(np.maximum(largest_probability, np.abs(ours_log - theirs_log).max()))
        agreed += _same_choice(int(ours.argmax()), theirs_log, tolerance)
    count = len(expected)
    return ParityCase(name, count, largest, total / count, largest_probability, agreed / count, overflows)


def prompt_ids(length: int, vocab_size: int, seed: int = 1) -> list[int]:
    """Token ids of the generator x -> (1103515245 x + 12345) mod 2**31, its upper bits taken modulo the vocabulary."""
    ids, state = [], seed
    for _ in range(length):
        state = (1103515245 * state + 12345) % 2**31
        ids.append((state >> 8) % vocab_size)
    return ids


def _prefill(model: Reference, session: Session, tolerance: float) -> ParityCase:
    ids = prompt_ids(min(_LONG_PROMPT, model.context_length), model.vocab_size)
    with session.new_cache() as cache:
        found = session.step(np.array([ids]), cache, keep=0)[0]
        return compare("prefill", model.logits(ids), list(found), tolerance)


def _chunked_prefill(model: Reference, session: Session, tolerance: float) -> ParityCase:
    """Chunks of growing and unequal length, one single token among them."""
    ids = prompt_ids(min(_LONG_PROMPT, model.context_length), model.vocab_size, seed=2)
    marks = sorted({0, 1, len(ids) // 8, len(ids) // 3, len(ids)})
    found: list[Logits] = []
    with session.new_cache() as cache:
        for start, stop in pairwise(marks):
            found += list(session.step(np.array([ids[start:stop]]), cache, keep=0)[0].copy())
    return compare("chunked prefill", model.logits(ids), found, tolerance)


def _ragged_batch(model: Reference, session: Session, tolerance: float) -> ParityCase:
    """Rows of unequal length, prefilled one by one, then stepped together; each row is judged alone in PyTorch."""
    context, vocabulary = model.context_length, model.vocab_size
    steps = min(_RAGGED_STEPS, context - 1)
    longest = min(_PROMPT, context - steps)
    lengths = [longest, max(1, longest // 3), max(1, longest // 2)]
    rows = [prompt_ids(length + steps, vocabulary, seed=3 + row) for row, length in enumerate(lengths)]
    found: list[list[Logits]] = [[] for _ in rows]
    with session.new_cache(batch=len(rows), capacity=longest) as cache:
        for row, length in enumerate(lengths):
            ids = np.array([rows[row][:length]])
            found[row].append(session.step(ids, cache.row(row), keep=1)[0, -1].copy())
        for step in range(steps):
            ids = np.array([[row[length + step]] for row, length in zip(rows, lengths, strict=True)])
            logits = session.step(ids, cache, keep=1)
            for row, results in enumerate(found):
                results.append(logits[row, -1].copy())
    expected = [
        logits
        for row, length in zip(rows, lengths, strict=True)
        for logits in model.logits(row)[length - 1 : length + steps]
    ]
    return compare("ragged batch", expected, [logits for results in found for logits in results], tolerance)


def _greedy_steps(model: Reference, session: Session, tolerance: float) -> tuple[ParityCase, int, int, bool]:
    """PyTorch's greedy text, and the bundle's logits along it: its own text is the same until they first disagree.

    Returns:
        The comparison of the first steps, how many tokens are identical, how many there are, and whether the first
        that differs ties.
    """
    total = max(1, min(_GREEDY_TOKENS, model.context_length // 2))
    prompt = prompt_ids(max(1, min(_PROMPT, model.context_length - total)), model.vocab_size, seed=7)
    # One side after the other: two thread pools that take turns at every step would wait for each other's threads.
    expected = model.greedy_logits(prompt, total)
    tokens = [int(logits.argmax()) for logits in expected]
    inputs = [prompt, *([token] for token in tokens[:-1])]
    with session.new_cache() as cache:
        found = [session.step(np.array([ids]), cache, keep=1)[0, -1].copy() for ids in inputs]
    choices = [int(logits.argmax()) for logits in found]
    case = compare("single steps", expected[:_STEPS], found[:_STEPS], tolerance)
    for step, (choice, token) in enumerate(zip(choices, tokens, strict=True)):
        if choice != token:
            return case, step, total, _same_choice(choice, _log_softmax(expected[step]), tolerance)
    return case, total, total, False


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max()
    return np.asarray(wide - np.log(np.exp(wide).sum()))


def _same_choice(token: int, expected_log: NDArray[np.float64], tolerance: float) -> bool:
    """Whether `token` is the most probable one of the reference, or ties with it within the tolerance."""
    return bool(expected_log.max() - expected_log[token] <= tolerance)


def _check_same_architecture(bundle: Bundle, config: GPTConfig) -> None:
    theirs = config.to_dict()
    defaults = {field.name: field.default for field in fields(config)}
    defaults["windows"] = []
    ours = defaults | bundle.manifest.architecture  # which an older version may have written, with fewer fields
    odd = [name for name, value in theirs.items() if ours.get(name) != value]
    if odd:
        raise ParityError(
            f"the bundle has {odd[0]} {ours.get(odd[0])!r} and the source {theirs[odd[0]]!r}: "
            "it was not exported from this source"
        )
