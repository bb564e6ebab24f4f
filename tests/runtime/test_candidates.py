"""Candidates of beams: the best without sorting, and draws without replacement."""

import numpy as np
import pytest

from onnxgpt.runtime.candidates import best_candidates, drawn_candidates
from onnxgpt.runtime.random import uniform


@pytest.mark.parametrize("vocabulary", [3, 64, 1000, 4097])
@pytest.mark.parametrize("beams", [1, 4])
def test_the_best_are_those_that_sorting_everything_finds(vocabulary, beams):
    random = np.random.default_rng(vocabulary)
    scores = random.standard_normal((beams, vocabulary)).astype(np.float32).round(1)  # with equal ones
    scores[random.random(scores.shape) < 0.2] = -np.inf
    beam_scores = random.standard_normal(beams).astype(np.float32)
    for count in (1, 2, 8):
        count = min(count, scores.size)
        found = best_candidates(scores, beam_scores, count)
        sums = (scores + beam_scores[:, None]).ravel()
        expected = np.argsort(-sums, kind="stable")[:count]
        assert (found.beams * vocabulary + found.tokens).tolist() == expected.tolist()
        assert found.scores.tolist() == sums[expected].tolist()


def test_the_best_of_one_possible_token():
    scores = np.full((2, 300), -np.inf, np.float32)
    scores[:, 7] = -1
    found = best_candidates(scores, np.array([0, -2], np.float32), 4)
    assert found.tokens[:2].tolist() == [7, 7]
    assert found.scores.tolist() == [-1, -3, -np.inf, -np.inf]


def test_draws_are_those_of_the_specification():
    scores = np.log(np.array([[0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.5, 1e-30]], np.float32))
    beam_scores = np.log(np.array([0.75, 0.25], np.float32))
    for step, expected in ((0, [(1, 2), (0, 0), (0, 1), (0, 3)]), (1, [(0, 3), (1, 2), (0, 1), (0, 0)])):
        found = drawn_candidates(scores, beam_scores, 4, [uniform(7, draw, step) for draw in range(4)])
        assert list(zip(found.beams.tolist(), found.tokens.tolist(), strict=True)) == expected
        assert found.scores == pytest.approx(scores[found.beams, found.tokens] + beam_scores[found.beams])


def test_pairs_are_drawn_as_often_as_their_probabilities_say():
    """20,000 draws of two tokens: P(i then j) = p_i p_j / (1 - p_i); chi-square with 11 degrees of freedom."""
    shares = np.array([[0.4, 0.1], [0.2, 0.3]])
    scores, beam_scores = np.log(shares).astype(np.float32), np.zeros(2, np.float32)
    counts = np.zeros((4, 4))
    for step in range(20_000):
        found = drawn_candidates(scores, beam_scores, 2, [uniform(3, draw, step) for draw in range(2)])
        first, second = found.beams * 2 + found.tokens
        counts[first, second] += 1
    flat = shares.ravel()
    expected = 20_000 * flat[:, None] * flat[None, :] / (1 - flat[:, None])
    apart = ~np.eye(4, dtype=bool)
    assert np.diag(counts).sum() == 0
    assert ((counts - expected)[apart] ** 2 / expected[apart]).sum() < 31.3  # the 99.9th percentile


def test_where_nothing_is_left_to_draw_the_best_others_follow():
    scores = np.array([[0, -np.inf, -1, -np.inf]], np.float32)
    found = drawn_candidates(np.repeat(scores, 2, axis=0), np.array([0, -1e9], np.float32), 4, [0.5] * 4)
    assert list(zip(found.beams.tolist(), found.tokens.tolist(), strict=True)) == [(0, 0), (0, 2), (1, 0), (1, 2)]
