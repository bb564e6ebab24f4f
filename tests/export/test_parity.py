"""The figures of a ParityReport, on distributions of four tokens worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxgpt.export.parity import ParityReport, compare, prompt_ids

BASE = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))


def report(*cases, identical: int = 4, tie: bool = False) -> ParityReport:
    return ParityReport("torch", "onnxruntime", 1e-3, tuple(cases), 4, identical, tie)


def test_differences_are_those_worked_by_hand() -> None:
    # Adding 2 everywhere changes logits but no probability. The second row swaps 0.5 and 0.25: ln 2 apart.
    swapped = BASE[[1, 0, 2, 3]]
    case = compare("case", [BASE, BASE], [BASE + 2, swapped])
    assert case.positions == 2
    assert case.max_logits_difference == pytest.approx(2)
    assert case.mean_logits_difference == pytest.approx((2 + math.log(2) / 2) / 2)
    assert case.max_log_probability_difference == pytest.approx(math.log(2))
    assert case.top1_agreement == 0.5


def test_equal_logits_pass() -> None:
    assert report(compare("case", [BASE], [BASE])).passed


def test_a_tie_within_the_tolerance_agrees() -> None:
    tied = np.array([1.0, 1.0 - 5e-4, 0.0, 0.0], np.float32)
    other = np.array([1.0 - 5e-4, 1.0, 0.0, 0.0], np.float32)
    case = compare("case", [tied], [other])
    assert case.top1_agreement == 1
    assert report(case).passed


def test_a_difference_over_the_tolerance_fails_and_says_so() -> None:
    case = compare("single steps", [BASE], [BASE + np.array([0, 0, 0, 0.1], np.float32)])
    assert report(case).failures() == [
        f"single steps: log-probabilities differ by {case.max_log_probability_difference:.2g}, expected at most 0.001"
    ]


def test_logits_that_are_not_numbers_fail() -> None:
    case = compare("case", [BASE, BASE], [np.full(4, np.nan, np.float32), BASE])
    assert not report(case).passed


def test_another_greedy_text_fails_unless_the_first_other_token_ties() -> None:
    case = compare("case", [BASE], [BASE])
    assert report(case, identical=3).failures() == ["greedy text: 3 of 4 tokens are identical"]
    assert report(case, identical=3, tie=True).passed


def test_prompts_are_those_of_the_generator() -> None:
    # 1103515245 * 1 + 12345 = 1103527590; >> 8 = 4310654; the next state is 377401575 after the modulus.
    assert prompt_ids(2, 1000) == [4310654 % 1000, (377401575 >> 8) % 1000]


def test_the_report_is_plain_data() -> None:
    data = report(compare("case", [BASE], [BASE])).to_dict()
    assert data["passed"] is True
    assert data["cases"][0]["name"] == "case"
