"""Log-probabilities of tokens, of the likeliest ones, and of the prompt's."""

import numpy as np
import pytest

from onnxgpt.runtime.errors import OptionError
from onnxgpt.runtime.likelihood import Likelihood, rank

PROMPT = "Once upon a time there was a"


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def test_normalizers_of_extreme_logits():
    likelihood = Likelihood()
    extreme = np.array([1000.0, 999.0, -np.inf], np.float32)
    assert likelihood.normalizer(extreme) == pytest.approx(1000 + np.log1p(np.exp(-1)))
    assert likelihood.normalizer(extreme, extreme[0]) == pytest.approx(1000 + np.log1p(np.exp(-1)))
    ordinary = np.array([59.9, 3.0, -200.0], np.float32)
    assert likelihood.normalizer(ordinary) == pytest.approx(59.9)
    assert likelihood.normalizer(ordinary - np.float32(119.7)) == pytest.approx(-59.8)
    assert likelihood.normalizer(np.full(3, -1000, np.float32)) == pytest.approx(-1000 + np.log(3))


@pytest.mark.parametrize("vocabulary", [5, 16_384, 16_385, 50_257])
def test_normalizers_do_not_depend_on_how_they_are_computed(vocabulary):
    logits = np.random.default_rng(vocabulary).normal(0, 4, (2, vocabulary)).astype(np.float32)
    expected = log_softmax(logits)
    for likeliest in (False, True):
        tokens = logits.argmax(axis=1) if likeliest else [0, vocabulary - 1]
        found, rankings = Likelihood().measure(logits, tokens, 1, are_likeliest=likeliest)
        np.testing.assert_allclose(found, expected[[0, 1], tokens], atol=1e-5)
        assert [ranking[0].id for ranking in rankings] == logits.argmax(axis=1).tolist()


def test_ranks_equal_a_full_sort():
    chance = np.random.default_rng(5)
    for count in (1, 3, 40, 60):
        logits = chance.integers(0, 12, 50).astype(np.float32)  # many are equal
        order = np.argsort(-logits, kind="stable")[:count]
        found = rank(logits, count, 2.0)
        assert [token.id for token in found] == order.tolist()
        assert [token.logprob for token in found] == (logits[order] - 2.0).tolist()


@pytest.mark.parametrize("options", [{"do_sample": False}, {"seed": 1, "temperature": 1.5, "repetition_penalty": 1.3}])
def test_the_likeliest_of_each_step_are_the_model_s_own(fairytale, options):
    (completion,) = fairytale.generate(PROMPT, max_new_tokens=12, logprobs=5, **options)
    ids = fairytale.tokenizer.encode(PROMPT)
    expected = log_softmax(fairytale.logits([*ids, *completion.token_ids]))[len(ids) - 1 : -1]
    assert len(completion.top_logprobs) == 12
    for row, top in zip(expected, completion.top_logprobs, strict=True):
        assert [token.id for token in top] == np.argsort(-row, kind="stable")[:5].tolist()
        np.testing.assert_allclose([token.logprob for token in top], [row[token.id] for token in top], atol=1e-4)
    if not options.get("seed"):
        assert [top[0].id for top in completion.top_logprobs] == list(completion.token_ids)
        assert [top[0].logprob for top in completion.top_logprobs] == list(completion.logprobs)


def test_streams_tell_them_too(fairytale):
    (completion,) = fairytale.generate(PROMPT, max_new_tokens=4, logprobs=2, do_sample=False)
    assert tuple(token.top for token in fairytale.stream(PROMPT, max_new_tokens=4, logprobs=2, do_sample=False)) == (
        completion.top_logprobs
    )
    assert all(token.top == () for token in fairytale.stream(PROMPT, max_new_tokens=2))


def test_log_probabilities_of_prompts(fairytale):
    long = "The king's daughter went into the forest, and there she met an old woman. " * 12  # more than one chunk
    options = {"max_new_tokens": 2, "seed": 1, "num_return_sequences": 2, "prompt_logprobs": True}
    completions = fairytale.generate([PROMPT, long, "x"], logprobs=3, **options)
    for completion, prompt in zip(completions[::2], [PROMPT, long, "x"], strict=True):
        ids = fairytale.tokenizer.encode(prompt)
        expected = log_softmax(fairytale.logits(ids))[:-1]
        np.testing.assert_allclose(completion.prompt_logprobs, expected[np.arange(len(ids) - 1), ids[1:]], atol=1e-4)
        assert [top[0].id for top in completion.prompt_top_logprobs] == expected.argmax(axis=1).tolist()
        assert all(len(top) == 3 for top in completion.prompt_top_logprobs)
    assert [each.prompt_logprobs for each in completions[::2]] == [each.prompt_logprobs for each in completions[1::2]]
    plain = fairytale.generate([PROMPT, long, "x"], max_new_tokens=2, seed=1, num_return_sequences=2)
    assert [each.token_ids for each in plain] == [each.token_ids for each in completions]
    assert plain[0].prompt_logprobs == ()
    without_ranks = fairytale.generate(PROMPT, max_new_tokens=2, do_sample=False, prompt_logprobs=True)[0]
    assert without_ranks.prompt_top_logprobs == ()
    assert len(without_ranks.prompt_logprobs) == completions[0].prompt_tokens - 1


def test_more_than_the_vocabulary_are_all(fairytale):
    (completion,) = fairytale.generate("x", max_new_tokens=1, do_sample=False, logprobs=5000)
    assert len(completion.top_logprobs[0]) == 4096
    assert sum(np.exp(token.logprob) for token in completion.top_logprobs[0]) == pytest.approx(1, abs=1e-4)
    with pytest.raises(OptionError, match="logprobs is -1"):
        fairytale.generate("x", logprobs=-1)
