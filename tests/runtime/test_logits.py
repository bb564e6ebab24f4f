"""The pipeline: its order, what draws by the random stream, and what it refuses. Values: test_processor_goldens.py."""

import numpy as np
import pytest

from onnxgpt.runtime.config import GenerationConfig
from onnxgpt.runtime.errors import OptionError
from onnxgpt.runtime.logits import Rows, log_sum_exp, processors_for, softmax
from onnxgpt.runtime.random import uniform
from onnxgpt.runtime.sampling import Sampler

NEVER = float("-inf")


def pipeline_for(vocabulary_size=4, tokenizer=None, seed=None, least_kept=1, **options):
    return processors_for(
        GenerationConfig(**options),
        vocabulary_size=vocabulary_size,
        context_length=100,
        tokenizer=tokenizer,
        seed=seed,
        least_kept=least_kept,
    )


def process(logits, text=(0,), prompt_length=1, sequence=0, **options):
    rows = Rows([list(text)], [prompt_length], [sequence])
    return pipeline_for(len(logits), **options)(rows, np.array([logits], np.float32))[0].tolist()


def test_without_processors_the_logits_come_back_themselves():
    logits = np.zeros((1, 4), np.float32)
    assert pipeline_for()(Rows([[0]], [1], [0]), logits) is logits


def test_greedy_leaves_the_filters_out():
    assert process([1.0, 2.0, 3.0], repetition_penalty=2.0, temperature=0.5, top_k=1, top_p=0.1) == [0.5, 2.0, 3.0]


def test_a_bias_comes_before_the_penalties():
    # (1 + 3) / 2, then 0.5 less; penalty first would give 1 / 2 + 3.
    assert process([1.0, 0.0], (0, 0), logit_bias={0: 3.0}, repetition_penalty=2.0, presence_penalty=0.5)[0] == 1.5


def test_biases_of_the_same_token_add_up():
    assert process([0.0, 0.0], logit_bias={1: 1.0}, sequence_bias=[[[1], 0.5], [[0, 1], 0.25]]) == [0.0, 1.75]


def test_a_forced_token_is_forced_over_what_forbids_it():
    options = {"bad_words_ids": [[2]], "forced_bos_token_id": 2}
    assert process([1.0, 2.0, 3.0], **options) == [NEVER, NEVER, 0.0]
    assert process([1.0, 2.0, 3.0], (0, 2), **options) == [1.0, 2.0, NEVER]


def test_the_first_new_token_is_forced_after_any_prompt():
    assert process([1.0, 2.0, 3.0], (0, 1, 1), prompt_length=3, forced_bos_token_id=1) == [NEVER, 0.0, NEVER]


def test_the_last_token_is_forced_where_the_limit_ends_the_text():
    options = {"forced_eos_token_id": 1, "max_new_tokens": 3}
    assert process([1.0, 2.0, 3.0], (0, 0, 0), **options) == [NEVER, 0.0, NEVER]
    assert process([1.0, 2.0, 3.0], (0, 0), **options) == [1.0, 2.0, 3.0]


def test_text_that_is_bad_is_forbidden_with_and_without_a_space(fairytale):
    (free,) = fairytale.generate("Once upon a time there was a", max_new_tokens=60, do_sample=False)
    assert " king" in free.text
    (bound,) = fairytale.generate("Once upon a time there was a", max_new_tokens=60, do_sample=False, bad_words="king")
    assert " king" not in bound.text


@pytest.mark.parametrize("name", ["bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "logit_bias"])
def test_tokens_outside_the_vocabulary_are_refused_by_name(name):
    value = {"bad_words_ids": [[1], [2, 4]], "logit_bias": {4: 1.0}}.get(name, [4])
    with pytest.raises(OptionError, match=f"{name} holds token id 4, .* expected 0 to 3"):
        pipeline_for(**{name: value})


def test_options_that_forbid_every_token_are_refused():
    with pytest.raises(OptionError, match="forbid every token"):
        process([1.0, 2.0], suppress_tokens=[0, 1])


def test_texts_need_a_tokenizer():
    with pytest.raises(OptionError, match="bad_words is text"):
        pipeline_for(bad_words="no")


def test_the_end_token_alone_is_no_bad_word_as_in_transformers():
    assert process([1.0, 2.0], bad_words_ids=[[1]], eos_token_id=1) == [1.0, 2.0]


@pytest.mark.parametrize("width", [1000, 50_000])
def test_top_k_of_a_short_list_is_that_of_all_logits(width):
    generator = np.random.default_rng(8)
    logits = np.round(generator.standard_normal((3, width)) * 8).astype(np.float32) / 2  # with ties at the border
    pipeline = pipeline_for(width, do_sample=True, top_k=6)
    found = pipeline(Rows([[0]] * 3, [1] * 3, [0] * 3), logits)
    for row, kept in zip(logits, found, strict=True):
        np.testing.assert_array_equal(kept > NEVER, row >= np.sort(row)[-6])
        np.testing.assert_array_equal(kept[kept > NEVER], row[kept > NEVER])


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 0.9},
        {"top_k": 30, "top_p": 0.9},
        {"typical_p": 0.9},
        {"eta_cutoff": 0.01},
        {"min_p": 0.1},
        {"epsilon_cutoff": 0.001},
        {"top_k": 40, "xtc_probability": 0.5, "xtc_threshold": 0.01},
    ],
)
def test_rows_of_a_batch_get_what_they_get_alone(options):
    generator = np.random.default_rng(9)
    logits = (generator.standard_normal((4, 2000)) * 2).astype(np.float32)
    pipeline = pipeline_for(2000, seed=3, do_sample=True, **({"top_k": 0} | options))
    sequences = [0, 1, 2, 5]
    together = pipeline(Rows([[0, 1]] * 4, [1] * 4, sequences), logits)
    for row, sequence in enumerate(sequences):
        alone = pipeline(Rows([[0, 1]], [1], [sequence]), logits[row, None])
        np.testing.assert_array_equal(together[row], alone[0])


@pytest.mark.parametrize("name", ["top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"])
def test_filters_leave_so_many_tokens_at_least(name):
    strict = {"top_p": 0.01, "min_p": 0.9, "typical_p": 0.01, "epsilon_cutoff": 0.99, "eta_cutoff": 0.99}
    logits = np.array([[3.0, 9.0, 1.0, 2.0, 0.0]], np.float32)
    pipeline = pipeline_for(5, least_kept=3, do_sample=True, top_k=1, **{name: strict[name]})
    assert np.flatnonzero(pipeline(Rows([[0]], [1], [0]), logits) > NEVER).tolist() == [0, 1, 3]


def test_draws_follow_the_processed_distribution():
    logits = (np.random.default_rng(4).standard_normal((1, 3000)) * 2).astype(np.float32)
    pipeline = pipeline_for(3000, do_sample=True, temperature=0.9, top_k=40, top_p=0.95, repetition_penalty=1.1)
    processed = pipeline(Rows([[5, 6]], [2], [0]), logits)[0]
    expected = softmax(processed) * 20_000
    sampler = Sampler(is_greedy=False, seed=21)
    counts = np.bincount([sampler.choose(processed, step) for step in range(20_000)], minlength=3000)
    assert counts[expected == 0].sum() == 0
    left = expected > 0
    chi_square = ((counts[left] - expected[left]) ** 2 / expected[left]).sum()
    freedom = np.count_nonzero(left) - 1
    assert 15 < freedom < 40
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)  # past the 0.1 % point of such a distribution


def test_xtc_is_done_as_often_as_asked_by_a_number_of_its_own():
    logits = np.log(np.array([[0.6, 0.3, 0.1]], np.float32))
    pipeline = pipeline_for(3, seed=77, do_sample=True, xtc_probability=0.3, xtc_threshold=0.2)
    done = []
    for step in range(4000):
        rows = Rows([[0] * (step + 1)], [1], [2])
        done.append(bool(np.isinf(pipeline(rows, logits)[0, 0])))
    assert done == [uniform(77, 2, step, lane=1) < 0.3 for step in range(4000)]
    assert abs(sum(done) - 1200) < 4 * np.sqrt(4000 * 0.3 * 0.7)
    # The number that chooses the token says nothing about it.
    both = sum(is_done and uniform(77, 2, step) < 0.5 for step, is_done in enumerate(done))
    assert abs(both - sum(done) / 2) < 4 * np.sqrt(sum(done) / 4)


def test_log_sum_exp_of_large_logits():
    logits = np.array([[1000.0, 1000.0], [-1000.0, -1000.0]], np.float32)
    np.testing.assert_allclose(log_sum_exp(logits), [1000 + np.log(2), -1000 + np.log(2)], rtol=1e-6)
