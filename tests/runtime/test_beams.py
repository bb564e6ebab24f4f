"""Beams through Model.generate: what they tell, how they end, and what is refused."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

import onnxgpt
from onnxgpt.export import export_bundle
from onnxgpt.runtime.config import GenerationConfig
from onnxgpt.runtime.errors import MemoryLimitError, OptionError
from onnxgpt.runtime.stopping import Cancellation

ONCE, KING = "Once upon a time", "The king said to his daughter,"
BEAMS = {"do_sample": False, "num_beams": 4}


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    """The fairy-tale model with standard operators, whose cache is another one."""
    from ..conftest import FAIRYTALE_CHECKPOINT

    out = tmp_path_factory.mktemp("standard") / "bundle"
    return onnxgpt.load(export_bundle(FAIRYTALE_CHECKPOINT, out, operators="standard").directory, threads=1)


def test_the_score_is_the_sum_of_log_probabilities_over_the_length(fairytale):
    for completion in fairytale.generate(ONCE, num_return_sequences=4, max_new_tokens=12, length_penalty=0.5, **BEAMS):
        assert completion.score == pytest.approx(sum(completion.logprobs) / 12**0.5, abs=1e-4)
        ids = fairytale.tokenizer.encode(ONCE) + list(completion.token_ids)
        assert list(completion.logprobs) == pytest.approx(fairytale.score(ids).logprobs[-12:], abs=1e-4)
        assert completion.finish_reason == "length"
        assert completion.seed is None


def test_without_beams_there_is_no_score(fairytale):
    assert fairytale.generate(ONCE, do_sample=False, max_new_tokens=2)[0].score is None


def test_both_kinds_of_cache_find_the_same(fairytale, standard):
    for options in (BEAMS, BEAMS | {"num_beam_groups": 2, "diversity_penalty": 1.0}):
        options = options | {"max_new_tokens": 80, "num_return_sequences": 4}  # the buffer of the one grows
        ours, theirs = (model.generate([ONCE, KING], **options) for model in (fairytale, standard))
        assert [one.token_ids for one in ours] == [one.token_ids for one in theirs]
        assert [one.score for one in ours] == pytest.approx([one.score for one in theirs], abs=1e-4)


def test_a_prompt_finds_the_same_alone_and_beside_others(fairytale):
    options = {"num_beams": 3, "do_sample": True, "seed": 11, "max_new_tokens": 20, "num_return_sequences": 2}
    together = fairytale.generate([ONCE, KING], **options)
    alone = fairytale.generate(ONCE, **options) + fairytale.generate(KING, **options)
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.seed for one in together] == [11] * 4
    assert [(one.prompt_index, one.sequence_index) for one in together] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_beam_sampling_depends_on_the_seed(fairytale):
    texts = {fairytale.generate(ONCE, num_beams=2, max_new_tokens=20, seed=seed)[0].text for seed in range(4)}
    assert len(texts) > 1


def test_temperature_0_searches(fairytale):
    greedy, plain = (
        fairytale.generate(ONCE, num_beams=4, max_new_tokens=20, **options)[0]
        for options in ({"do_sample": True, "temperature": 0}, {"do_sample": False})
    )
    assert greedy.token_ids == plain.token_ids


def test_a_text_ends_before_its_stop_string(fairytale):
    options = BEAMS | {"max_new_tokens": 40, "num_return_sequences": 4}
    found = fairytale.generate(KING, stop_strings=["my da", "ing"], **options)
    assert "stop" in {one.finish_reason for one in found}
    for one in found:
        assert "my da" not in one.text
        assert "ing" not in one.text
        if one.finish_reason == "stop":
            whole = fairytale.tokenizer.decode(one.token_ids)
            assert "my da" in whole or "ing" in whole


def test_stop_tokens_end_beams_as_end_tokens_do(fairytale):
    comma = fairytale.tokenizer.encode("a,")[-1]
    options = BEAMS | {"max_new_tokens": 30, "num_return_sequences": 4}
    stopped = fairytale.generate(ONCE, stop_token_ids=comma, eos_token_id=(), **options)
    ended = fairytale.generate(ONCE, eos_token_id=comma, **options)
    assert [one.token_ids for one in stopped] == [one.token_ids for one in ended]
    assert {one.finish_reason for one in stopped} >= {"stop_token"}
    assert {one.finish_reason for one in ended} >= {"eos"}
    assert all(not one.text.endswith(",") for one in stopped if one.finish_reason == "stop_token")


def test_beams_end_where_the_context_ends(fairytale):
    ids = fairytale.tokenizer.encode(ONCE) * 126
    found = fairytale.generate([ids], eos_token_id=(), num_return_sequences=2, max_new_tokens=100, **BEAMS)
    assert [one.completion_tokens for one in found] == [fairytale.context_length - len(ids)] * 2
    assert {one.finish_reason for one in found} == {"context"}


def test_time_ends_a_search_with_what_it_has_found(fairytale):
    found = fairytale.generate(ONCE, max_time=1e-9, max_new_tokens=40, num_return_sequences=2, **BEAMS)
    assert {(one.finish_reason, one.completion_tokens) for one in found} == {("time", 0)}
    found = fairytale.generate(ONCE, max_time=0.05, max_new_tokens=500, num_return_sequences=2, **BEAMS)
    assert all(one.finish_reason in ("time", "eos") for one in found)
    assert "time" in {one.finish_reason for one in found}


def test_another_thread_cancels_a_search(fairytale):
    cancellation = Cancellation()
    timer = threading.Timer(0.05, cancellation.cancel)
    timer.start()
    found = fairytale.generate(ONCE, cancellation=cancellation, max_new_tokens=500, eos_token_id=(), **BEAMS)
    timer.join()
    assert found[0].finish_reason == "cancelled"
    assert found[0].completion_tokens < 500


def test_likeliest_tokens_and_the_prompts_log_probabilities(fairytale):
    asked = {"logprobs": 3, "prompt_logprobs": True, "max_new_tokens": 8}
    greedy = fairytale.generate(ONCE, do_sample=False, **asked)[0]
    found = fairytale.generate(ONCE, num_return_sequences=4, **asked, **BEAMS)
    for one in found:
        assert one.prompt_logprobs == pytest.approx(greedy.prompt_logprobs, abs=1e-4)
        assert len(one.top_logprobs) == 8
        for token, logprob, ranking in zip(one.token_ids, one.logprobs, one.top_logprobs, strict=True):
            assert len(ranking) == 3
            known = {ranked.id: ranked.logprob for ranked in ranking}
            assert known.get(token, logprob) == pytest.approx(logprob, abs=1e-4)
    first = [ranked.id for ranked in greedy.top_logprobs[0]]
    assert all([ranked.id for ranked in one.top_logprobs[0]] == first for one in found)


def test_memory_is_promised_for_all_beams_and_given_back(full_bundle):
    model = onnxgpt.load(full_bundle.directory, memory_limit="25MB")
    used = model.session.budget.used
    model.generate(ONCE, num_beams=2, do_sample=False, max_new_tokens=20)
    assert model.session.budget.used == used
    with pytest.raises(MemoryLimitError, match="lower max_new_tokens or num_beams"):
        model.generate(ONCE, num_beams=64, do_sample=False, max_new_tokens=400)


def test_more_beams_than_tokens_may_follow(fairytale):
    only = [token for token in range(fairytale.session.spec.vocab_size) if token not in (270, 290)]
    found = fairytale.generate(
        ONCE,
        num_beams=5,
        num_return_sequences=5,
        do_sample=False,
        max_new_tokens=3,
        suppress_tokens=only,
        eos_token_id=(),
    )
    texts = [one.token_ids for one in found]
    assert all(set(text) <= {270, 290} and len(text) == 3 for text in texts)
    assert len(set(texts)) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length_penalty": 2.0}, "length_penalty has no effect without beams"),
        ({"early_stopping": True}, "early_stopping has no effect without beams"),
        ({"num_beam_groups": 2}, "num_beam_groups has no effect without beams"),
        ({"diversity_penalty": 1.0}, "diversity_penalty has no effect without beams"),
        ({"num_beams": 4, "diversity_penalty": 1.0}, "diversity_penalty has no effect on a single group"),
        ({"num_beams": 4, "num_return_sequences": 5}, "num_return_sequences is 5 and num_beams 4"),
        ({"num_beams": 2, "num_return_sequences": 3, "do_sample": True}, "num_return_sequences is 3 and num_beams 2"),
        ({"num_return_sequences": 2}, "sample, give num_beams, or leave it out"),
        ({"num_beams": 5, "num_beam_groups": 2, "diversity_penalty": 1.0}, "num_beams is 5 and num_beam_groups 2"),
        ({"num_beams": 4, "num_beam_groups": 2}, "num_beam_groups without diversity_penalty"),
        (
            {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True},
            "num_beam_groups with do_sample",
        ),
        ({"num_beams": 4, "context_end": "slide"}, 'context_end is "slide" with num_beams'),
        ({"num_beams": 4, "seed": 1}, "seed has no effect without do_sample=True"),
        ({"num_beams": 4, "top_k": 3}, "top_k has no effect without do_sample=True"),
        ({"num_beams": 0}, "num_beams is 0: expected a whole number of at least 1"),
        ({"num_beams": 4, "early_stopping": "soon"}, "early_stopping is 'soon': expected True, False or \"never\""),
        ({"num_beams": 4, "early_stopping": 1}, 'early_stopping is 1: expected True, False or "never"'),
        ({"num_beams": 4, "length_penalty": 100.0}, "length_penalty is 100.0: expected a number from -5 to 5"),
        (
            {"num_beams": 4, "diversity_penalty": -1.0},
            "diversity_penalty is -1.0: expected a number from 0 to a million",
        ),
    ],
)
def test_wrong_combinations_are_refused_by_name(options, message):
    with pytest.raises(OptionError) as caught:
        GenerationConfig.resolve({"do_sample": False}, options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_has_no_meaning_for_beams_is_refused(fairytale):
    with pytest.raises(OptionError, match="num_beams is 4: a stream has no beams"):
        fairytale.stream(ONCE, **BEAMS)
    with pytest.raises(OptionError, match="on_token has no effect with num_beams"):
        fairytale.generate(ONCE, on_token=lambda token: None, **BEAMS)
    with pytest.raises(OptionError, match="batch_size has no effect with num_beams"):
        fairytale.generate(ONCE, batch_size=2, **BEAMS)


def test_a_files_defaults_are_those_of_transformers():
    """What transformers writes into generation_config.json changes nothing."""
    written = {"num_beams": 1, "num_beam_groups": 1, "diversity_penalty": 0.0, "length_penalty": 1.0}
    written |= {"early_stopping": False}
    assert GenerationConfig.resolve(written, {}) == GenerationConfig()


def test_stored_cases_hold_more_than_one_kind_of_ending():
    """The golden cases would prove little if every text ended at its limit."""
    cases = json.loads((Path(__file__).parents[1] / "golden" / "beams.json").read_text())["cases"]
    lengths = [{len(sequence) for sequence in case["sequences"]} for case in cases]
    assert sum(len(found) > 1 for found in lengths) >= 10
    assert np.mean([case["model"] == "fairytale" for case in cases]) > 0.5
