"""What is chosen from the likeliest few against what all logits give: the same tokens, or nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxgpt.runtime.choices import Choices
from onnxgpt.runtime.config import GenerationConfig
from onnxgpt.runtime.likelihood import Likelihood
from onnxgpt.runtime.logits import Logits, Pipeline, Rows, log_sum_exp, processors_for
from onnxgpt.runtime.row import Row
from onnxgpt.runtime.sampling import Sampler
from onnxgpt.runtime.shortlists import Chosen, Shortlists
from onnxgpt.runtime.stopping import Cancellation, Interruption

VOCABULARY = 3000
K = 64
SAMPLED = {"do_sample": True, "seed": 5}

# Options, and in how many of the steps over ordinary logits the shortlist must be enough, at least.
ENOUGH: dict[str, tuple[dict[str, Any], float]] = {
    "greedy": ({}, 1.0),
    "greedy with logprobs": ({"logprobs": 20}, 1.0),
    "as transformers samples": (SAMPLED, 1.0),
    "top_k with all that follows": (
        SAMPLED
        | {"top_k": 40, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.8, "epsilon_cutoff": 0.01, "eta_cutoff": 0.02},
        1.0,
    ),
    "top_k and xtc": (SAMPLED | {"top_k": 30, "xtc_probability": 0.7, "xtc_threshold": 0.05, "logprobs": 3}, 1.0),
    "top_k at a temperature": (SAMPLED | {"top_k": 50, "temperature": 0.7}, 1.0),
    "top_p": (SAMPLED | {"top_k": 0, "top_p": 0.8}, 0.9),
    "top_p and more": (SAMPLED | {"top_k": 0, "top_p": 0.8, "min_p": 0.05, "typical_p": 0.9}, 0.9),
    "top_p, sharper": (SAMPLED | {"top_k": 0, "top_p": 0.9, "temperature": 0.7}, 0.6),
    "top_p, flatter": (SAMPLED | {"top_k": 0, "top_p": 0.7, "temperature": 1.2}, 0.1),
    "min_p": (SAMPLED | {"top_k": 0, "min_p": 0.05, "temperature": 0.8}, 1.0),
    "min_p and xtc": (SAMPLED | {"top_k": 0, "min_p": 0.05, "xtc_probability": 0.5}, 1.0),
}
ALL_LOGITS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.1},
    {"logit_bias": {3: 1.0}},
    {"bad_words_ids": [[3]]},
    {"no_repeat_ngram_size": 2},
    {"dry_multiplier": 0.8, "dry_sequence_breakers": ()},
    {"presence_penalty": 0.5},
    {"suppress_tokens": [3]},
    {"min_new_tokens": 3, "eos_token_id": 0},
    {"logprobs": K},
    SAMPLED | {"top_k": 0},
    SAMPLED | {"top_k": K},
    SAMPLED | {"top_k": 0, "typical_p": 0.5},
]


def choices_of(logits: Logits, count: int = K) -> Choices:
    """What a graph gives out, by numpy; equal ones in an order that is nobody's."""
    order = np.lexsort((np.random.default_rng(1).random(logits.shape), -logits), axis=1)[:, :count]
    return Choices(
        logits.argmax(axis=1), order, np.take_along_axis(logits, order, axis=1), log_sum_exp(logits.astype(np.float32))
    )


def rows_of(config: GenerationConfig, count: int) -> list[Row]:
    return [
        Row(
            [1, 2],
            config,
            limit=1000,
            sampler=Sampler(is_greedy=config.is_greedy, seed=config.seed or 0, sequence=sequence),
            interruption=Interruption(Cancellation()),
        )
        for sequence in range(count)
    ]


def pipeline_of(config: GenerationConfig, vocabulary: int = VOCABULARY) -> Pipeline:
    return processors_for(config, vocabulary_size=vocabulary, context_length=10_000, seed=config.seed)


def chosen_by_all(config: GenerationConfig, rows: list[Row], logits: Logits) -> Chosen:
    about = Rows(
        [row.token_ids for row in rows],
        [row.prompt_length for row in rows],
        [row.sampler.sequence for row in rows],
    )
    scores = pipeline_of(config, logits.shape[1])(about, logits)
    tokens = [row.choose(given) for row, given in zip(rows, scores, strict=True)]
    return Chosen(tokens, *Likelihood().measure(logits, tokens, config.logprobs))


def ordinary(rows: int, seed: int, vocabulary: int = VOCABULARY) -> Logits:
    """Logits as peaked as a language model's, in steps of float16, so that many are equal."""
    generator = np.random.default_rng(seed)
    steepness = generator.uniform(2, 5)
    logits = generator.gumbel(0, 1, (rows, vocabulary)) - steepness * np.log(1 + np.arange(vocabulary)) / 2
    return generator.permuted(logits + 8, axis=1).astype(np.float16).astype(np.float32)


def assert_same(found: Chosen, expected: Chosen) -> None:
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=0, atol=1e-5)
    for mine, theirs in zip(found.rankings, expected.rankings, strict=True):
        assert [each.id for each in mine] == [each.id for each in theirs]
        np.testing.assert_allclose(
            [each.logprob for each in mine], [each.logprob for each in theirs], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("name", ENOUGH)
def test_the_shortlist_chooses_what_all_logits_choose(name: str) -> None:
    options, least = ENOUGH[name]
    config = GenerationConfig(**options)
    pipeline = pipeline_of(config)
    assert Shortlists.are_enough(config, pipeline, K)
    shortlists = Shortlists(config, pipeline, VOCABULARY)
    rows = rows_of(config, 2)
    served = 0
    for step in range(60):
        logits = ordinary(2, step)
        found = shortlists.choose(rows, choices_of(logits))
        expected = chosen_by_all(config, rows, logits)
        if found is not None:
            served += 1
            assert_same(found, expected)
        for row, token in zip(rows, expected.tokens, strict=True):
            row.take(token, 0.0)

    assert served >= 60 * least


@pytest.mark.parametrize("options", ALL_LOGITS, ids=lambda options: ",".join(options))
def test_what_looks_at_other_tokens_wants_all_logits(options: dict[str, Any]) -> None:
    config = GenerationConfig(**options)

    assert not Shortlists.are_enough(config, pipeline_of(config), K)


@pytest.mark.parametrize("options", [{}, {"logprobs": 3}, SAMPLED, SAMPLED | {"top_k": 0, "top_p": 0.5}], ids=str)
def test_equals_beyond_the_end_are_not_overlooked(options: dict[str, Any]) -> None:
    """All tokens are equally likely: which of them all logits would choose, the shortlist can't know."""
    config = GenerationConfig(**options)
    logits = np.zeros((1, VOCABULARY), np.float32)
    shortlists = Shortlists(config, pipeline_of(config), VOCABULARY)

    assert shortlists.choose(rows_of(config, 1), choices_of(logits)) is None


@pytest.mark.parametrize("options", [{}, {"logprobs": 5}, SAMPLED | {"top_k": 0, "top_p": 0.87}], ids=str)
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_a_vocabulary_that_is_given_out_whole_has_no_end(options: dict[str, Any], temperature: float) -> None:
    if options.get("do_sample"):
        options = options | {"temperature": temperature}
    config = GenerationConfig(**options)
    shortlists = Shortlists(config, pipeline_of(config, 40), 40)
    rows = rows_of(config, 3)
    for seed in range(20):
        logits = np.round(ordinary(3, seed, 40))
        found = shortlists.choose(rows, choices_of(logits, 40))
        assert found is not None
        assert_same(found, chosen_by_all(config, rows, logits))


def test_a_flat_nucleus_is_left_to_all_logits() -> None:
    config = GenerationConfig(**SAMPLED, top_k=0, top_p=0.9)
    logits = np.random.default_rng(0).normal(0, 0.3, (1, VOCABULARY)).astype(np.float32)
    shortlists = Shortlists(config, pipeline_of(config), VOCABULARY)

    assert shortlists.choose(rows_of(config, 1), choices_of(logits)) is None
