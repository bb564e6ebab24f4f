import numpy as np
import pytest

from onnxgpt.runtime.sampling import Sampler, choose_by_number

PROBABILITIES = np.array([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("number", "token"),
    [(0.0, 0), (0.0999, 0), (0.1001, 1), (0.2999, 1), (0.3001, 2), (0.5999, 2), (0.6001, 3), (1 - 2**-24, 3)],
)
def test_shares_of_the_interval_in_order_of_id(number, token):
    assert choose_by_number(np.log(PROBABILITIES).astype(np.float32), number) == token


def test_filtered_tokens_are_never_chosen():
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0], np.float32)
    assert {choose_by_number(logits, number) for number in np.linspace(0, 1, 101)[:-1]} == {1, 3}


@pytest.mark.parametrize("kept", [0.02, 0.7])
def test_many_tokens_are_drawn_as_by_one_running_sum(kept):
    generator = np.random.default_rng(3)
    logits = (generator.standard_normal(5000) * 2).astype(np.float32)
    logits[generator.uniform(size=5000) > kept] = -np.inf
    sums = np.cumsum(np.exp(logits.astype(np.float64) - logits.max()))
    for number in [0.0, 1 - 2**-24, *generator.uniform(size=300)]:
        expected = int(np.argmax(sums > number * sums[-1]))
        assert choose_by_number(logits, number) == expected
        assert np.isfinite(logits[expected])


def test_a_short_list_gives_the_token_of_its_ids():
    logits = np.array([-np.inf, 5.0, 1.0], np.float32)
    assert Sampler(is_greedy=True, seed=0).choose(logits, 0, np.array([7, 11, 400])) == 11


def test_draws_follow_the_distribution():
    logits = np.log(PROBABILITIES).astype(np.float32)
    sampler = Sampler(is_greedy=False, seed=9)
    counts = np.bincount([sampler.choose(logits, step) for step in range(20_000)], minlength=4)
    expected = PROBABILITIES * 20_000
    assert ((counts - expected) ** 2 / expected).sum() < 16.27  # the 0.1 % point with 3 degrees of freedom


def test_greedy_takes_the_lowest_id_among_equals():
    assert Sampler(is_greedy=True, seed=0).choose(np.array([1.0, 3.0, 3.0], np.float32), 0) == 1


def test_the_stream_depends_on_seed_sequence_and_step():
    logits = np.zeros(1000, np.float32)

    def chosen(seed, sequence):
        sampler = Sampler(is_greedy=False, seed=seed, sequence=sequence)
        return [sampler.choose(logits, step) for step in range(10)]

    assert chosen(1, 0) == chosen(1, 0)
    assert len({tuple(chosen(1, 0)), tuple(chosen(1, 1)), tuple(chosen(2, 0))}) == 3
