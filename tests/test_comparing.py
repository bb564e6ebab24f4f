"""A bundle judged by another bundle and by PyTorch, and the rows for people."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from onnxgpt.comparing import compare, read_text, report_rows
from onnxgpt.quantize.text_files import EvaluationText
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.errors import BundleNotFoundError, OptionError, SourceNotFoundError
from onnxgpt.runtime.settings import SessionSettings

ONE_THREAD = SessionSettings(threads=1)
CHECKPOINT = Path(__file__).parents[1] / "models" / "fairytale" / "checkpoint"
TEXT = EvaluationText.packaged("evaluation")


def test_full_precision_against_pytorch_itself(full_bundle: Bundle) -> None:
    """Two engines that share no code: full precision must lose nothing but digits."""
    report = compare(str(full_bundle.directory), str(CHECKPOINT), TEXT, window=200, tokens=400, settings=ONE_THREAD)

    assert report.reference.startswith("checkpoint (torch 2.")
    assert 0 < report.mean_kl < 1e-9
    assert report.perplexity_ratio == pytest.approx(1, abs=1e-5)
    assert report.top1_agreement == 1
    assert report.greedy_identical == report.greedy_tokens
    assert len(report.layer_errors) == 6
    assert 0 < max(report.layer_errors) < 1e-5


def test_a_bundle_against_itself_in_rows(full_bundle: Bundle) -> None:
    report = compare(
        str(full_bundle.directory), str(full_bundle.directory), TEXT, window=64, tokens=128, settings=ONE_THREAD
    )

    assert report.mean_kl < 1e-10
    rows = dict(report_rows(report))
    assert rows["perplexity"].endswith("ratio 1.0000")
    assert rows["mean KL"] == f"{report.mean_kl:.3g} nats, 99% of the positions below {report.kl_99th_percentile:.3g}"
    assert rows["top-1 agreement"] == "100.00% of 128 positions"
    assert rows["greedy agreement"] == "256 of 256 tokens"
    assert rows["text"] == f"evaluation.txt (sha256 {TEXT.sha256[:12]}…), 128 tokens, windows of 64"
    errors = report.layer_errors
    assert rows["layer errors"].startswith(f"{errors[0]:.3g} after the first, {errors[5]:.3g} after the last block")
    assert f"largest {max(errors):.3g} after block {errors.index(max(errors))}" in rows["layer errors"]


def test_another_model_is_no_form_of_this_one(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="no-such-bundle"):
        compare("no-such-bundle", "fairytale", TEXT)
    with pytest.raises(SourceNotFoundError, match="no checkpoint 'nobody'"):
        compare("fairytale", "nobody", TEXT)


def test_the_text_comes_from_a_file_from_stdin_or_from_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes("Es war einmal ein König.\n".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes()), encoding="utf-8"))

    assert read_text(None) == TEXT
    assert read_text(str(path)).name == "story.txt"
    assert read_text("-").name == "stdin"
    assert read_text(str(path)).content == "Es war einmal ein König.\n"
    with pytest.raises(OptionError, match="can't be read"):
        read_text(str(tmp_path / "none.txt"))
