"""Prompt lookup: the text of single steps in fewer passes."""

import numpy as np
import pytest

import onnxgpt
from onnxgpt.runtime.drafting import HitRates, worthwhile_count
from onnxgpt.runtime.errors import OptionError
from onnxgpt.runtime.manifest import GraphRecord
from onnxgpt.runtime.model import Model
from onnxgpt.runtime.prompt_lookup import continuation
from onnxgpt.runtime.session import Session
from onnxgpt.runtime.settings import SessionSettings
from onnxgpt.runtime.stopping import Cancellation

REPETITIVE = "'Who is there?' said the wolf. " * 12
PROMPTS = [REPETITIVE, "Once upon a time there was a king who had", "x", "'Who is there?' said the old woman. 'Who is"]
GREEDY = {"do_sample": False, "max_new_tokens": 60}


@pytest.fixture(params=["shared buffer", "separate past and present"])
def model(request, fairytale, full_bundle):
    """The fairy-tale model with each kind of cache."""
    if request.param == "shared buffer":
        return fairytale
    session = Session.open(
        full_bundle.graph_path, SessionSettings(threads=2), record=GraphRecord(shares_cache_buffer=False)
    )
    return Model(full_bundle, session, fairytale.tokenizer)


@pytest.fixture
def passes(model, monkeypatch):
    """How many tokens each pass of the model has read."""
    read = []
    step = model.session.step
    monkeypatch.setattr(
        model.session, "step", lambda ids, cache, keep=1: read.append(ids.shape[1]) or step(ids, cache, keep)
    )
    return read


def assert_same(ours, theirs):
    assert ours.token_ids == theirs.token_ids
    assert ours.text == theirs.text
    assert ours.finish_reason == theirs.finish_reason
    assert ours.seed == theirs.seed
    np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
    assert [[token.id for token in step] for step in ours.top_logprobs] == [
        [token.id for token in step] for step in theirs.top_logprobs
    ]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        GREEDY | {"repetition_penalty": 1.3},
        GREEDY | {"no_repeat_ngram_size": 3},
        GREEDY | {"frequency_penalty": 0.2, "bad_words": ["wolf"], "min_new_tokens": 30},
        GREEDY | {"dry_multiplier": 0.8, "logprobs": 3},
        GREEDY | {"stop_strings": ["it?' s", "forest", "king's"]},
        GREEDY | {"eos_token_id": [14]},
        GREEDY | {"stop_token_ids": [12], "max_new_tokens": 7},
        {"seed": 3, "max_new_tokens": 60},
        {"seed": 4, "max_new_tokens": 60, "temperature": 0.3, "top_k": 0, "top_p": 0.9},
        {"seed": 5, "max_new_tokens": 60, "temperature": 0.2, "xtc_probability": 0.5, "repetition_penalty": 1.1},
    ],
)
def test_the_text_is_that_of_single_steps(fairytale, prompt, options):
    plain = fairytale.generate(prompt, **options)[0]
    assert_same(fairytale.generate(prompt, prompt_lookup_num_tokens=8, **options)[0], plain)


@pytest.mark.parametrize("lookup", [{"max_matching_ngram_size": 1}, {"max_matching_ngram_size": 20}])
def test_the_text_is_the_same_however_much_is_looked_up(fairytale, lookup):
    plain = fairytale.generate(REPETITIVE, **GREEDY)[0]
    assert_same(fairytale.generate(REPETITIVE, prompt_lookup_num_tokens=30, **lookup, **GREEDY)[0], plain)


def test_repetitive_text_takes_fewer_passes(model, passes):
    plain = model.generate(REPETITIVE, **GREEDY)[0]
    assert passes.count(1) == 59
    passes.clear()
    assert_same(model.generate(REPETITIVE, prompt_lookup_num_tokens=10, **GREEDY)[0], plain)
    assert len(passes) <= 36
    assert max(passes[1:]) == 11  # the newest token and ten candidates


def test_sampled_repetition_takes_fewer_passes(model, passes):
    options = {"seed": 1, "temperature": 0.2, "max_new_tokens": 160}
    plain = model.generate(REPETITIVE, **options)[0]
    passes.clear()
    assert_same(model.generate(REPETITIVE, prompt_lookup_num_tokens=10, **options)[0], plain)
    assert len(passes) <= 125


def test_text_that_repeats_nothing_is_generated_by_single_steps(model, passes):
    model.generate("Once", prompt_lookup_num_tokens=10, no_repeat_ngram_size=1, **GREEDY)
    assert passes == [1] * 60


def test_the_last_pass_computes_no_more_than_the_limit(model, passes):
    for limit in (1, 2, 3):
        passes.clear()
        options = GREEDY | {"max_new_tokens": limit}
        completion = model.generate(REPETITIVE, prompt_lookup_num_tokens=10, **options)[0]
        assert completion.completion_tokens == limit
        assert sum(passes[1:]) <= limit - 1


def test_the_context_ends_and_slides_as_without(model, passes):
    context = model.context_length
    prompt = (model.tokenizer.encode(REPETITIVE) * 20)[: context - 30]
    plain = model.generate(prompt, do_sample=False, max_new_tokens=60)[0]
    assert_same(model.generate(prompt, prompt_lookup_num_tokens=10, do_sample=False, max_new_tokens=60)[0], plain)
    assert plain.finish_reason in ("context", "eos")
    options = {"do_sample": False, "max_new_tokens": 60, "context_end": "slide", "context_keep": 4, "eos_token_id": ()}
    plain = model.generate(prompt, **options)[0]
    passes.clear()
    assert_same(model.generate(prompt, prompt_lookup_num_tokens=10, **options)[0], plain)
    assert plain.completion_tokens == 60
    assert len(passes) < 60


def test_streams_give_the_same_events(model):
    options = GREEDY | {"stop_strings": ["the wolf who is waiting"], "logprobs": 2}
    plain = list(model.stream(REPETITIVE, **options))
    ours = list(model.stream(REPETITIVE, prompt_lookup_num_tokens=10, **options))
    assert [(each.id, each.text, each.finish_reason, each.row) for each in ours] == [
        (each.id, each.text, each.finish_reason, each.row) for each in plain
    ]


@pytest.mark.parametrize("count", [1, 4, 9, 20])
def test_a_callback_ends_the_text_within_a_pass(model, count):
    taken = []
    completion = model.generate(
        REPETITIVE,
        prompt_lookup_num_tokens=10,
        on_token=lambda token: taken.append(token.id) or len(taken) == count,
        **GREEDY,
    )[0]
    assert completion.finish_reason == "callback"
    assert list(completion.token_ids) == taken
    assert len(taken) == count


def test_cancelling_ends_the_text_within_a_pass(model):
    cancellation = Cancellation()
    taken = []

    def cancel_at_ten(token):
        taken.append(token)
        if len(taken) == 10:
            cancellation.cancel()

    completion = model.generate(
        REPETITIVE, prompt_lookup_num_tokens=10, on_token=cancel_at_ten, cancellation=cancellation, **GREEDY
    )[0]
    assert completion.finish_reason == "cancelled"
    assert completion.completion_tokens == 11  # with the one in whose time it came


def test_a_time_limit_ends_the_text(model):
    completion = model.generate(REPETITIVE, prompt_lookup_num_tokens=10, max_time=1e-9, **GREEDY)[0]
    assert (completion.finish_reason, completion.completion_tokens) in (("time", 0), ("time", 1))


def test_closing_a_stream_frees_the_cache(full_bundle):
    model = onnxgpt.load(full_bundle.directory, threads=2, memory_limit="500MB")
    before = model.session.budget.used
    with model.stream(REPETITIVE, prompt_lookup_num_tokens=10, **GREEDY) as stream:
        for _ in range(20):
            next(stream)
        assert model.session.budget.used > before
    assert model.session.budget.used == before


def test_rows_one_after_the_other_are_those_of_single_calls(model):
    rows = model.generate(PROMPTS[:2], batch_size=1, prompt_lookup_num_tokens=10, **GREEDY)
    for row, prompt in zip(rows, PROMPTS, strict=False):
        assert_same(row, model.generate(prompt, prompt_lookup_num_tokens=10, **GREEDY)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_lookup_num_tokens": 0}, "prompt_lookup_num_tokens is 0: expected a whole number of at least 1"),
        ({"prompt_lookup_num_tokens": 2.5}, "prompt_lookup_num_tokens is 2.5: expected a whole number"),
        (
            {"prompt_lookup_num_tokens": 2, "max_matching_ngram_size": 0},
            "max_matching_ngram_size is 0: expected a whole number of at least 1",
        ),
        ({"max_matching_ngram_size": 2}, "has no effect without prompt lookup: give prompt_lookup_num_tokens"),
        ({"prompt_lookup_num_tokens": 2, "num_beams": 2}, "num_beams is 2: guesses are checked for one text"),
        (
            {"prompt_lookup_num_tokens": 2, "num_return_sequences": 3, "do_sample": True},
            "3 rows are generated at once: .* give batch_size=1, or leave prompt_lookup_num_tokens out",
        ),
        ({"num_assistant_tokens": 2}, "num_assistant_tokens has no effect without an assistant: give assistant"),
    ],
)
def test_wrong_combinations_are_refused(fairytale, options, message):
    with pytest.raises(OptionError, match=message):
        fairytale.generate("x", **options)
    if "num_beams" not in options:
        with pytest.raises(OptionError, match=message):
            fairytale.stream("x", **options)


def test_several_prompts_are_refused(fairytale):
    with pytest.raises(OptionError, match="2 rows are generated at once"):
        fairytale.generate(["x", "y"], prompt_lookup_num_tokens=2)


def test_a_graph_that_reads_in_one_piece_is_refused(fairytale, monkeypatch):
    monkeypatch.setattr(type(fairytale.bundle.manifest.graph), "chunked_prefill", False)
    object.__setattr__(fairytale.bundle.manifest.graph, "chunked_prefill", False)
    try:
        with pytest.raises(OptionError, match=r"can't read several tokens behind others .* export it again, or leave"):
            fairytale.generate("x", prompt_lookup_num_tokens=2)
    finally:
        object.__setattr__(fairytale.bundle.manifest.graph, "chunked_prefill", True)


def test_a_bundle_s_own_lookup_is_passed_over_where_it_can_t_be_followed(fairytale, monkeypatch):
    monkeypatch.setitem(fairytale.generation_defaults, "prompt_lookup_num_tokens", 10)
    assert len(fairytale.generate(["x", "y"], do_sample=False, max_new_tokens=3)) == 2
    assert len(fairytale.generate("x", num_beams=2, do_sample=False, max_new_tokens=3)) == 1


# The last place wins; transformers' own test of its PromptLookupCandidateGenerator has texts with one place alone.
@pytest.mark.parametrize(
    ("text", "longest", "expected"),
    [
        ([1, 2, 3, 1, 4, 1], 2, ([4, 1, 4], 1)),
        ([1, 2, 3, 4, 5, 2, 3], 2, ([4, 5, 2], 2)),
        ([1, 2, 3, 9, 3, 8, 2, 3], 1, ([8, 2, 3], 1)),
        ([1, 2, 3, 9, 3, 8, 2, 3], 2, ([9, 3, 8], 2)),
        ([3, 1, 2, 3], 3, ([1, 2, 3], 1)),
        ([4, 4, 4], 2, ([4, 4, 4], 2)),
        ([1, 2, 3], 2, None),
        ([1], 2, None),
    ],
)
def test_a_text_goes_on_as_it_did_before(text, longest, expected):
    assert continuation(np.array(text), longest, 3) == expected


def test_worthwhile_counts_grow_with_the_rate():
    # By hand: 1.9 / 1.16 = 1.638, 2.71 / 1.32 = 2.053, 3.439 / 1.48 = 2.324, 4.0951 / 1.64 = 2.497 and so on.
    assert [worthwhile_count(0.9, most, 0.16) for most in (0, 1, 4, 7, 8, 9, 30)] == [0, 1, 4, 7, 8, 8, 8]
    counts = [worthwhile_count(rate / 20, 16, 0.16) for rate in range(21)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 16)


def test_rates_follow_what_came():
    rates = HitRates({"near": 0.5, "far": 0.5})
    rates.expect(1, [(7, "near"), (8, "near"), (9, "far")])
    rates.learn([5, 7, 8, 3, 9])
    # 0.5 counted for 2 tokens: hits 1 -> 1.9 -> 2.71 of guesses 2 -> 2.8 -> 3.52; and 0.9 of 2.8.
    assert rates.rate("near") == pytest.approx(2.71 / 3.52)
    assert rates.rate("far") == pytest.approx(0.9 / 2.8)
    rates.learn([5, 7, 8, 9])  # nothing more is expected
    assert rates.rate("far") == pytest.approx(0.9 / 2.8)
