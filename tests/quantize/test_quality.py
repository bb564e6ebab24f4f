"""Quality's figures against transformers, against formulas worked by hand, and what is refused.

The candidate is the embedded model with its matrices rounded to bfloat16: far enough from the original for every figure
to differ, and transformers can be changed in the same way.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onnxgpt.export.pipeline import export_checkpoint
from onnxgpt.quantize.comparison import compare_logits, relative_error
from onnxgpt.quantize.quality import QualityReport, measure_quality
from onnxgpt.quantize.readers import BundleReader
from onnxgpt.quantize.segmented_reader import SegmentedReader
from onnxgpt.quantize.text_files import EvaluationText
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.errors import BundleError, OptionError
from onnxgpt.runtime.settings import SessionSettings
from onnxgpt.runtime.tokenizer import Tokenizer

from ..export.conftest import LLAMA_LIKE, checkpoint_of, random_gpt
from .damaged import damaged_fairytale

WINDOW, TOKENS = 192, 768  # more than the 128 positions that are read at once
ONE_THREAD = SessionSettings(threads=1)
TEXT = EvaluationText.packaged("evaluation")


@pytest.fixture(scope="module")
def ids(fairytale_bundle: Bundle) -> torch.Tensor:
    return torch.tensor(Tokenizer(fairytale_bundle.tokenizer_path).encode(TEXT.content)[:TOKENS])


@pytest.fixture(scope="module")
def report(fairytale_bundle: Bundle, rounded_bundle: Bundle) -> QualityReport:
    return measure_quality(rounded_bundle, fairytale_bundle, TEXT, window=WINDOW, tokens=TOKENS, settings=ONE_THREAD)


@torch.no_grad()
def log_probabilities(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """[tokens, vocabulary] in float64, window by window."""
    rows = [torch.log_softmax(model(window[None]).logits[0].double(), dim=-1) for window in ids.split(WINDOW)]
    return torch.cat(rows)


def test_divergence_and_top_1_are_those_of_pytorch(
    report: QualityReport, ids: torch.Tensor, fairytale_in_transformers: Any, rounded_in_transformers: Any
) -> None:
    exact = log_probabilities(fairytale_in_transformers, ids)
    rounded = log_probabilities(rounded_in_transformers, ids)
    expected = torch.nn.functional.kl_div(rounded, exact, reduction="none", log_target=True).sum(dim=-1)
    same = (exact.argmax(dim=-1) == rounded.argmax(dim=-1)).double().mean()

    assert report.mean_kl > 1e-5
    assert report.kl.shape == (TOKENS,)
    np.testing.assert_allclose(report.kl, expected.numpy(), rtol=1e-2, atol=2e-7)
    assert report.mean_kl == pytest.approx(float(expected.mean()), rel=1e-3)
    assert report.top1_agreement < 1
    assert report.top1_agreement == pytest.approx(float(same), abs=1.5 / TOKENS)  # one near tie may turn
    assert report.kl_99th_percentile == pytest.approx(float(expected.quantile(0.99)), rel=1e-2)


@pytest.mark.parametrize("stride", [WINDOW, 50])
@torch.no_grad()
def test_perplexity_is_that_of_transformers_loss(
    stride: int,
    ids: torch.Tensor,
    fairytale_bundle: Bundle,
    rounded_bundle: Bundle,
    fairytale_in_transformers: Any,
    rounded_in_transformers: Any,
) -> None:
    """As transformers' own page on perplexity has it: labels of -100 for what an earlier window scored."""
    starts = range(0, TOKENS - WINDOW + 1, stride)
    perplexities = []
    for model in (rounded_in_transformers, fairytale_in_transformers):
        total, count = 0.0, 0
        for start in starts:
            window = ids[None, start : start + WINDOW]
            labels = window.clone()
            if start:
                labels[:, :-stride] = -100
            scored = int((labels[:, 1:] != -100).sum())  # transformers shifts the labels inside
            total += float(model(window, labels=labels).loss) * scored
            count += scored
        perplexities.append(math.exp(total / count))
    found = measure_quality(
        rounded_bundle,
        fairytale_bundle,
        TEXT,
        window=WINDOW,
        stride=stride,
        tokens=TOKENS,
        layers=False,
        settings=ONE_THREAD,
    )

    assert found.perplexity == pytest.approx(perplexities[0], rel=1e-5)
    assert found.reference_perplexity == pytest.approx(perplexities[1], rel=1e-5)
    assert found.perplexity_ratio == pytest.approx(perplexities[0] / perplexities[1], rel=1e-6)
    assert abs(found.perplexity_ratio - 1) > 1e-5
    assert (found.tokens, found.stride) == (starts[-1] + WINDOW, stride)
    assert len(found.kl) == found.tokens  # each position once, however the windows overlap


@torch.no_grad()
def test_greedy_agreement_counts_leading_tokens(
    report: QualityReport, ids: torch.Tensor, fairytale_in_transformers: Any, rounded_in_transformers: Any
) -> None:
    starts = [index * (TOKENS - 32) // 4 for index in range(4)]
    prompts = torch.stack([ids[start : start + 32] for start in starts])
    texts = []
    for model in (fairytale_in_transformers, rounded_in_transformers):
        step, past, tokens = prompts, None, []
        for _ in range(64):
            result = model(step, past_key_values=past, use_cache=True)
            past, step = result.past_key_values, result.logits[:, -1:].argmax(dim=-1)
            tokens.append(step)
        texts.append(torch.cat(tokens, dim=1))
    same = (texts[0] == texts[1]).long()
    identical = int(same.cumprod(dim=1).sum())

    assert 0 < identical < 256
    assert (report.greedy_tokens, report.greedy_identical) == (4 * 64, identical)
    assert report.greedy_agreement == identical / 256


@torch.no_grad()
def test_layer_errors_are_those_of_transformers_hidden_states(
    report: QualityReport, ids: torch.Tensor, fairytale_in_transformers: Any, rounded_in_transformers: Any
) -> None:
    streams = []
    for model in (rounded_in_transformers, fairytale_in_transformers):
        rows: dict[int, list[torch.Tensor]] = {}
        for layer, block in enumerate(model.transformer.h):
            keep = rows.setdefault(layer, [])
            hook = lambda _, __, out, keep=keep: keep.append((out[0] if isinstance(out, tuple) else out).flatten(0, -2))  # noqa: E731
            block.register_forward_hook(hook)
        for window in ids.split(WINDOW)[:2]:
            model(window[None])
        streams.append([torch.cat(rows[layer]) for layer in sorted(rows)])
        for block in model.transformer.h:
            block._forward_hooks.clear()
    expected = [float(((a - b).norm(dim=-1) / b.norm(dim=-1)).mean()) for a, b in zip(*streams, strict=True)]

    assert len(expected) == 6
    assert min(expected) > 1e-4
    assert report.layer_errors == pytest.approx(expected, rel=1e-2)


def test_figures_of_a_distribution_worked_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): KL(p || q) = 3/4 log(3/2) + 1/4 log(1/2) = 0.130812 nats."""
    exact = np.log(np.array([[3.0, 1.0], [1.0, 1.0]], np.float32)) + np.float32(5)  # a shift changes no probability
    uniform = np.zeros((2, 2), np.float32)
    kl, agrees, ours, theirs = compare_logits(uniform, exact, np.array([1, 0]))

    assert kl == pytest.approx([0.1308120, 0], abs=1e-6)
    assert kl[0] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-7)
    assert agrees.tolist() == [True, True]  # of two equals the first
    assert ours == pytest.approx([math.log(0.5), math.log(0.5)])
    assert theirs == pytest.approx([math.log(0.25), math.log(0.5)], abs=1e-6)


def test_a_model_that_knows_nothing_has_the_vocabulary_s_perplexity(
    tmp_path: Path, fairytale_bundle: Bundle, ids: torch.Tensor, fairytale_in_transformers: Any
) -> None:
    """All embeddings 0, and so all logits: KL(p || uniform) is log(vocabulary) less p's entropy."""

    def forget(name: str, weights: np.ndarray) -> None:
        if name == "token_embedding.weight":
            weights[:] = 0

    empty = damaged_fairytale(fairytale_bundle, tmp_path / "empty", forget)
    found = measure_quality(
        empty, fairytale_bundle, TEXT, window=WINDOW, tokens=TOKENS, layers=False, settings=ONE_THREAD
    )
    exact = log_probabilities(fairytale_in_transformers, ids)
    vocabulary = exact.shape[1]
    entropy = float(-(exact.exp() * exact).sum(dim=-1).mean())

    assert found.perplexity == pytest.approx(vocabulary, rel=1e-9)
    assert found.mean_kl == pytest.approx(math.log(vocabulary) - entropy, rel=1e-5)
    assert found.greedy_identical == 0


def test_relative_errors_are_averaged_over_rows() -> None:
    exact = np.array([[3.0, 4.0], [0.0, 1000.0]], np.float32)
    values = exact + np.array([[0.0, 0.5], [0.0, 0.0]], np.float32)

    assert relative_error(values, exact) == pytest.approx((0.5 / 5 + 0) / 2)
    assert relative_error(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32)) == 0


def test_a_bundle_against_itself_has_lost_nothing(fairytale_bundle: Bundle) -> None:
    """Read by the session that users run, and block by block."""
    found = measure_quality(fairytale_bundle, fairytale_bundle, TEXT, window=128, tokens=256, settings=ONE_THREAD)

    assert found.perplexity_ratio == pytest.approx(1, abs=1e-6)
    assert 0 <= found.mean_kl < 1e-10
    assert found.top1_agreement == 1
    assert found.greedy_agreement == 1
    assert max(found.layer_errors) < 1e-5


def test_a_reference_that_is_no_full_precision_is_read_as_users_do(rounded_bundle: Bundle) -> None:
    manifest = dataclasses.replace(rounded_bundle.manifest, quantization={"name": "bfloat16"})
    reference = Bundle(rounded_bundle.directory, manifest)
    found = measure_quality(rounded_bundle, reference, TEXT, window=192, tokens=384, settings=ONE_THREAD)

    assert found.reference == "fairytale (bfloat16)"
    assert found.perplexity_ratio == 1
    assert found.mean_kl == 0
    assert found.layer_errors == (0.0,) * 6


@pytest.mark.parametrize("window", [100, 128, 300])
def test_a_graph_read_block_by_block_gives_its_session_s_logits(fairytale_bundle: Bundle, window: int) -> None:
    ids = TEXT.ids(Tokenizer(fairytale_bundle.tokenizer_path))
    parts = [ids[:window], ids[1000 : 1000 + window + 7]]
    session, segments = BundleReader(fairytale_bundle, ONE_THREAD), SegmentedReader(fairytale_bundle, threads=1)
    expected = [[piece.copy() for piece in pieces] for pieces in session.logits(parts)]
    found = [[piece.copy() for piece in pieces] for pieces in segments.logits(parts)]

    for ours, theirs in zip(found, expected, strict=True):
        assert [piece.shape for piece in ours] == [piece.shape for piece in theirs]
        np.testing.assert_allclose(np.concatenate(ours), np.concatenate(theirs), atol=1e-4)
    for ours_of_block, theirs_of_block in zip(segments.residuals(parts), session.residuals(parts), strict=True):
        np.testing.assert_allclose(ours_of_block, theirs_of_block, rtol=1e-3, atol=1e-4)


def test_the_same_bundles_give_the_same_report_and_it_is_plain_data(
    report: QualityReport, fairytale_bundle: Bundle, rounded_bundle: Bundle
) -> None:
    again = measure_quality(rounded_bundle, fairytale_bundle, TEXT, window=WINDOW, tokens=TOKENS, settings=ONE_THREAD)

    assert json.dumps(again.to_dict()) == json.dumps(report.to_dict())
    assert np.array_equal(again.kl, report.kl)
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert report.to_dict()["text"] == {"name": "evaluation.txt", "sha256": TEXT.sha256}
    assert report.to_dict()["positions"] == TOKENS


def test_the_window_is_the_context_where_that_is_shorter(tmp_path: Path, fairytale_bundle: Bundle) -> None:
    tiny = export_checkpoint(checkpoint_of(random_gpt(**LLAMA_LIKE)), tmp_path / "tiny")  # a context of 96
    found = measure_quality(tiny, tiny, TEXT, tokens=300, layers=False, settings=ONE_THREAD)

    assert (found.window, found.tokens) == (96, 288)
    with pytest.raises(OptionError, match="window is 97: the model's context holds 96 tokens"):
        measure_quality(tiny, tiny, TEXT, window=97)
    with pytest.raises(OptionError, match=r"turn evaluation.txt into different tokens"):
        measure_quality(tiny, fairytale_bundle, TEXT)


def test_a_text_shorter_than_a_window_is_refused(fairytale_bundle: Bundle) -> None:
    text = EvaluationText.from_bytes(b"Once upon a time", "short.txt")

    with pytest.raises(OptionError, match=r"the text has 4 tokens: expected at least 513"):
        measure_quality(fairytale_bundle, fairytale_bundle, text)


def test_weights_that_are_not_finite_are_an_error_and_no_figure(tmp_path: Path, fairytale_bundle: Bundle) -> None:
    def break_one(name: str, weights: np.ndarray) -> None:
        if name == "final_norm.weight":
            weights[0] = np.nan

    broken = damaged_fairytale(fairytale_bundle, tmp_path / "broken", break_one)

    with pytest.raises(BundleError, match=r"fairytale \(float32\) gives logits that are not finite"):
        measure_quality(broken, fairytale_bundle, TEXT, window=128, tokens=128)


def test_progress_goes_from_nothing_to_all(fairytale_bundle: Bundle) -> None:
    seen: list[tuple[str, float | None]] = []
    measure_quality(
        fairytale_bundle,
        fairytale_bundle,
        TEXT,
        window=64,
        tokens=256,
        settings=ONE_THREAD,
        progress=lambda message, fraction: seen.append((message, fraction)),
    )

    assert list(dict.fromkeys(message for message, _ in seen)) == [
        "writing greedy text",
        "reading the text in full precision",
        "comparing the two models",
        "comparing layers",
    ]
    assert [fraction for message, fraction in seen if message.startswith("comparing the")] == [0, 0.25, 0.5, 0.75]
    assert [fraction for message, fraction in seen if message.startswith("reading")] == [
        layer / 6 for layer in range(6)
    ]
