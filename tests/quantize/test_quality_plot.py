"""The picture of a report: written, the same each time, with both panels drawn; and what is refused."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from onnxgpt.quantize.quality import QualityReport
from onnxgpt.quantize.quality_plot import plot_quality
from onnxgpt.runtime.errors import OptionError

BLUE = np.array([0x1F, 0x5A, 0x99]) / 255


@pytest.fixture
def report() -> QualityReport:
    kl = np.abs(np.sin(np.arange(1000.0))) / 100
    return QualityReport(
        candidate="tiny (int8)",
        reference="tiny (float32)",
        text="story.txt",
        text_sha256="0" * 64,
        tokens=1000,
        window=100,
        stride=100,
        perplexity=20.5,
        reference_perplexity=20.0,
        mean_kl=float(kl.mean()),
        top1_agreement=0.97,
        greedy_tokens=256,
        greedy_identical=200,
        layer_errors=(0.01, 0.02, 0.04),
        kl=kl,
    )


def blue_parts(path: Path) -> list[float]:
    """The fraction of pixels in the line's and bars' blue: of the upper and of the lower half."""
    pixels = matplotlib.image.imread(path)[:, :, :3]
    blue = (np.abs(pixels - BLUE) < 0.02).all(axis=2)
    half = len(blue) // 2
    return [float(blue[:half].mean()), float(blue[half:].mean())]


def test_both_panels_are_drawn_and_a_picture_repeats(report: QualityReport, tmp_path: Path) -> None:
    for name in ("one.png", "two.PNG"):
        plot_quality(report, tmp_path / name)
    layers, along = blue_parts(tmp_path / "one.png")

    assert (tmp_path / "one.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.PNG").read_bytes()
    assert layers > 0.1  # bars
    assert 0.001 < along < 0.1  # a line


def test_what_was_not_measured_is_not_drawn(report: QualityReport, tmp_path: Path) -> None:
    nothing = dataclasses.replace(report, layer_errors=(), kl=np.zeros(3), mean_kl=0.0)
    plot_quality(nothing, tmp_path / "none.png")

    assert blue_parts(tmp_path / "none.png")[0] == 0


def test_another_format_or_folder_is_refused(report: QualityReport, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"loss.jpg does not end in .png"):
        plot_quality(report, tmp_path / "loss.jpg")
    with pytest.raises(OptionError, match=r"nowhere is no directory"):
        plot_quality(report, tmp_path / "nowhere" / "loss.png")


def test_without_matplotlib_the_extra_is_named(
    report: QualityReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # what an import of a missing module finds

    with pytest.raises(OptionError, match=r"needs matplotlib, which is not installed: install onnxgpt\[plot\]"):
        plot_quality(report, tmp_path / "loss.png")
