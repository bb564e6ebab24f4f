"""Quality: what a model lost against another one, such as a quantized bundle against full precision.

Definitions, for a text cut into windows of `window` tokens that begin every `stride` tokens (see `windows`):

- A position p of a window gives the distribution of the token at p + 1, from the window's tokens 0 … p alone.
- A position or a token that an earlier window held too is counted there only.
- Perplexity is exp of the mean negative log-probability (natural) of the tokens. The first token of the first window
  has nothing before it; where windows don't overlap (`stride` = `window`, the default), neither has the first token of
  any other one: it is not scored. With a smaller stride it is, and each token has at least `window` - `stride`
  tokens before it from the second window on.
- KL divergence is, at every position, the sum over the vocabulary of p_reference * log(p_reference / p_candidate), in
  nats; a window's last position counts, although its next token may not be scored.
- Top-1 agreement is the fraction of these positions where both models find the same token most probable.
- Greedy agreement: both models continue some passages of the text greedily; counted are the leading identical tokens.
  The candidate writes; the reference reads that, since up to the first difference its own text is the same.
- A layer's error is the mean, over positions of the first windows, of |candidate - reference| / |reference|, norms of
  the residual stream [hidden] that leaves the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.bundle import Bundle
from ..runtime.errors import OptionError
from ..runtime.settings import DEFAULT_SETTINGS, SessionSettings
from ..runtime.tokenizer import Tokenizer
from .comparison import Progress, compare_windows, perplexity, relative_error
from .readers import BundleReader, Logits, Reader, WritingReader
from .segmented_reader import SegmentedReader
from .text_files import EvaluationText, TokenIds, windows

_WINDOW = 512  # tokens, or the context when that is shorter
_LAYER_WINDOWS = 2
_GREEDY_PROMPTS = 4
_GREEDY_PROMPT = 32  # tokens
_GREEDY_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """A model judged against another one on a text; the module's docstring defines the figures."""

    candidate: str
    reference: str
    text: str  # the file's name
    text_sha256: str
    tokens: int  # of the text that the windows cover
    window: int
    stride: int
    perplexity: float
    reference_perplexity: float
    mean_kl: float  # nats
    top1_agreement: float  # fraction of the positions
    greedy_tokens: int
    greedy_identical: int
    layer_errors: tuple[float, ...]  # relative, block by block; empty when not measured or not to be told
    kl: NDArray[np.float64] = field(repr=False, compare=False)  # of each position in the order of the text

    @property
    def perplexity_ratio(self) -> float:
        """The candidate's perplexity over the reference's."""
        return self.perplexity / self.reference_perplexity

    @property
    def greedy_agreement(self) -> float:
        """Identical leading tokens of greedy text, as a fraction."""
        return self.greedy_identical / self.greedy_tokens

    @property
    def kl_99th_percentile(self) -> float:
        """The KL divergence that one position in a hundred exceeds."""
        return float(np.quantile(self.kl, 0.99))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a manifest or a program: every figure, without the divergence of each position."""
        return {
            "candidate": self.candidate,
            "reference": self.reference,
            "text": {"name": self.text, "sha256": self.text_sha256},
            "tokens": self.tokens,
            "window": self.window,
            "stride": self.stride,
            "perplexity": self.perplexity,
            "reference_perplexity": self.reference_perplexity,
            "perplexity_ratio": self.perplexity_ratio,
            "mean_kl": self.mean_kl,
            "kl_99th_percentile": self.kl_99th_percentile,
            "top1_agreement": self.top1_agreement,
            "positions": len(self.kl),
            "greedy_tokens": self.greedy_tokens,
            "greedy_identical": self.greedy_identical,
            "layer_errors": list(self.layer_errors),
        }


def measure_quality(
    candidate: Bundle,
    reference: Bundle,
    text: EvaluationText,
    *,
    window: int | None = None,
    stride: int | None = None,
    tokens: int = 4096,
    layers: bool = True,
    settings: SessionSettings = DEFAULT_SETTINGS,
    progress: Progress | None = None,
) -> QualityReport:
    """Judge a bundle against another one with the same tokenizer, through the session that users run.

    Of the logits, those of 128 positions are in memory; of a float32 reference, one block's weights or the head's.

    Args:
        candidate: the bundle to judge.
        reference: the bundle it is judged by, such as the full-precision one.
        text: what both read.
        window: tokens that are read as one text; None: 512, or the context when that is shorter.
        stride: from one window's beginning to the next one's; None: `window`.
        tokens: how much of the text is read, at most.
        layers: whether to measure each layer's error, which loads both graphs once more.
        settings: where both run.
        progress: is told what is being done.

    Raises:
        OptionError: the text is too short, a size makes no sense, or the two have not the same tokenizer.
        BundleError: one of the two can't be loaded, or gives logits that are not finite.
    """
    ids = shared_ids(text, candidate.tokenizer_path, reference.tokenizer_path)
    ours = BundleReader(candidate, settings)
    theirs: Reader = BundleReader(reference, settings)
    if SegmentedReader.reads(reference, settings.provider):
        theirs = SegmentedReader(reference, threads=settings.threads, progress=progress)
    return compare_readers(
        ours, theirs, text, ids, window=window, stride=stride, tokens=tokens, layers=layers, progress=progress
    )


def compare_readers(
    candidate: WritingReader,
    reference: Reader,
    text: EvaluationText,
    ids: TokenIds,
    *,
    window: int | None = None,
    stride: int | None = None,
    tokens: int = 4096,
    layers: bool = True,
    progress: Progress | None = None,
) -> QualityReport:
    """Judge a model against another one, whatever the two are; as `measure_quality`.

    Args:
        ids: the text's token ids, int64 [tokens of the text].
    """
    report = progress or (lambda message, fraction: None)
    context = min(candidate.context_length, reference.context_length)
    window = min(_WINDOW, context) if window is None else window
    if window > context:
        raise OptionError(f"window is {window}: the model's context holds {context} tokens; ask for that or fewer")
    stride = window if stride is None else stride
    parts = windows(ids, window, tokens, stride)
    covered = window + (len(parts) - 1) * stride
    report("writing greedy text", None)
    prompts, written = _write_greedily(candidate, ids[:covered], context)
    continued = [np.concatenate(pair) for pair in zip(prompts, written, strict=True)]
    # One reading of all windows, so that a reference which is read block by block is read once.
    reading = reference.logits([*parts, *continued])
    figures = compare_windows(candidate, reference, reading, parts, window - stride, report)
    identical = sum(
        _leading_identical(tokens, _choices(logits)[len(prompt) - 1 : -1])
        for prompt, tokens, logits in zip(prompts, written, reading, strict=True)
    )
    candidate.close()
    reference.close()
    errors: tuple[float, ...] = ()
    if layers:
        report("comparing layers", None)
        errors = _layer_errors(candidate, reference, parts[:_LAYER_WINDOWS])
    return QualityReport(
        candidate=candidate.name,
        reference=reference.name,
        text=text.name,
        text_sha256=text.sha256,
        tokens=covered,
        window=window,
        stride=stride,
        perplexity=perplexity(figures.candidate_log_probability[figures.is_scored]),
        reference_perplexity=perplexity(figures.reference_log_probability[figures.is_scored]),
        mean_kl=float(figures.kl[figures.is_new].mean()),
        top1_agreement=float(figures.agrees[figures.is_new].mean()),
        greedy_tokens=sum(len(tokens) for tokens in written),
        greedy_identical=identical,
        layer_errors=errors,
        kl=figures.kl[figures.is_new],
    )


def shared_ids(text: EvaluationText, candidate: Path, reference: Path) -> TokenIds:
    """The text's token ids by two `tokenizer.json` that must agree, int64 [tokens].

    Raises:
        OptionError: they don't, or the text is empty.
    """
    ids = text.ids(Tokenizer(candidate))
    if not np.array_equal(ids, text.ids(Tokenizer(reference))):
        raise OptionError(
            f"the two models turn {text.name} into different tokens: expected two forms of one model, "
            "with the same tokenizer"
        )
    return ids


def _write_greedily(
    candidate: WritingReader, ids: TokenIds, context: int
) -> tuple[list[TokenIds], list[NDArray[np.int64]]]:
    """Some passages of the text, and how the candidate continues each."""
    length = min(_GREEDY_PROMPT, max(1, context // 2), len(ids))
    count = min(_GREEDY_TOKENS, context - length)
    starts = [index * (len(ids) - length) // _GREEDY_PROMPTS for index in range(_GREEDY_PROMPTS)]
    prompts = [ids[start : start + length] for start in starts]
    return prompts, [np.array(candidate.continue_greedily(prompt, count), np.int64) for prompt in prompts]


def _choices(pieces: Iterator[Logits]) -> NDArray[np.int64]:
    """The most probable token at every position of a window."""
    return np.concatenate([logits.argmax(axis=1) for logits in pieces])


def _leading_identical(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> int:
    return int(np.logical_and.accumulate(ours == theirs).sum())


def _layer_errors(candidate: Reader, reference: Reader, parts: Sequence[TokenIds]) -> tuple[float, ...]:
    theirs = reference.residuals(parts)
    ours = candidate.residuals(parts) if theirs else []
    if len(ours) != len(theirs):
        return ()  # one of the graphs is not built of residual sums
    return tuple(relative_error(*pair) for pair in zip(ours, theirs, strict=True))
