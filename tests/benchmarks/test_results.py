"""Ratios, medians and quality figures against values worked by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from compare.results import Comparison, Ratio, middle, quality_of, ratio


def test_a_ratio_is_taken_round_by_round() -> None:
    # The second round was disturbed for both: the ratio of medians would be 120 / 90, no round's own.
    assert ratio([120.0, 60.0, 130.0], [100.0, 40.0, 90.0]) == Ratio(130 / 90, 1.2, 1.5, 3)


def test_rounds_that_miss_one_of_the_two_do_not_count() -> None:
    assert ratio([10.0, None, 30.0], [5.0, 5.0, None]) == Ratio(2.0, 2.0, 2.0, 1)
    assert ratio([None, 1.0], [1.0, None]) is None
    assert ratio([], [1.0]) is None


def test_the_median_of_nothing_is_nothing() -> None:
    assert middle([3.0, None, 1.0, 2.0]) == 2.0
    assert middle([None]) is None


def test_quality_is_over_all_windows_together() -> None:
    windows = [
        {"kl": 1.0, "top1": 3, "positions": 4, "nll": 6.0, "reference_nll": 3.0, "targets": 3},
        {"kl": 0.0, "top1": 2, "positions": 2, "nll": 2.0, "reference_nll": 1.0, "targets": 1},
    ]

    found = quality_of(windows)

    assert found["mean_kl"] == pytest.approx(1 / 6)
    assert found["top1_agreement"] == pytest.approx(5 / 6)
    assert found["perplexity"] == pytest.approx(math.exp(8 / 4))
    assert found["perplexity_ratio"] == pytest.approx(math.exp((8 - 4) / 4))


def test_results_are_read_as_they_were_written(comparison: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    comparison.write(path)

    assert Comparison.read(path) == comparison


def test_what_is_no_comparison_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"entries": {}}', encoding="utf-8")

    with pytest.raises(ValueError, match="is no comparison"):
        Comparison.read(path)
