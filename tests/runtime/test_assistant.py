"""Assisted generation: a smaller model drafts, and the text is that of the larger one alone."""

import dataclasses

import numpy as np
import pytest

import onnxgpt
from onnxgpt.runtime.errors import MemoryLimitError, OptionError
from onnxgpt.runtime.manifest import GraphRecord
from onnxgpt.runtime.model import Model
from onnxgpt.runtime.session import Session
from onnxgpt.runtime.settings import SessionSettings
from onnxgpt.runtime.stopping import Cancellation

PROMPTS = ["Once upon a time there was", "'Who is there?' said the wolf. ", "x"]
GREEDY = {"do_sample": False, "max_new_tokens": 60}
SAMPLED = {"do_sample": True, "max_new_tokens": 60, "seed": 7}


@pytest.fixture(autouse=True)
def cheap_layers(monkeypatch):
    """Let weights alone count as the cost of a step: for models as tiny as these no assistant is worth its time."""
    monkeypatch.setattr("onnxgpt.runtime.speculation._LAYER_OVERHEAD", 0)


@pytest.fixture(scope="module")
def small():
    """The same model in int8, as it is in the package."""
    return onnxgpt.load("fairytale", threads=2)


@pytest.fixture(params=["shared buffer", "separate past and present"])
def models(request, fairytale, small, full_bundle):
    """Target and assistant with each kind of cache."""
    if request.param == "shared buffer":
        return fairytale, small
    return tuple(
        Model(
            model.bundle,
            Session.open(
                model.bundle.graph_path, SessionSettings(threads=2), record=GraphRecord(shares_cache_buffer=False)
            ),
            model.tokenizer,
        )
        for model in (fairytale, small)
    )


def count_passes(model, monkeypatch, change=lambda logits: logits):
    """How many tokens each pass of the model has read, from now on."""
    read = []
    step = model.session.step

    def counted(ids, cache, keep=1):
        read.append(ids.shape[1])
        return change(step(ids, cache, keep))

    monkeypatch.setattr(model.session, "step", counted)
    return read


def assert_same(ours, theirs):
    assert ours.token_ids == theirs.token_ids
    assert ours.text == theirs.text
    assert ours.finish_reason == theirs.finish_reason
    np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        GREEDY | {"repetition_penalty": 1.3, "no_repeat_ngram_size": 4},
        GREEDY | {"dry_multiplier": 0.8, "eos_token_id": [14], "min_new_tokens": 9},
        GREEDY | {"stop_strings": ["wolf", "the king", "ing "]},
        SAMPLED,
        SAMPLED | {"temperature": 1.0, "top_k": 0, "top_p": 0.9},
        SAMPLED | {"xtc_probability": 0.5, "xtc_threshold": 0.05, "frequency_penalty": 0.3},
    ],
)
def test_the_text_is_that_of_the_larger_model(fairytale, small, prompt, options):
    plain = fairytale.generate(prompt, **options)[0]
    assert_same(fairytale.generate(prompt, assistant=small, **options)[0], plain)


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_the_larger_model_takes_fewer_passes(models, monkeypatch, options):
    target, assistant = models
    plain = target.generate(PROMPTS[0], **options)[0]
    passes, drafts = count_passes(target, monkeypatch), count_passes(assistant, monkeypatch)
    assert_same(target.generate(PROMPTS[0], assistant=assistant, num_assistant_tokens=6, **options)[0], plain)
    assert len(passes) <= 24
    assert max(passes[1:]) <= 7
    assert len(drafts) < 75  # tokens, their prompt's and few that were not wanted
    passes.clear()
    target.generate(PROMPTS[0], assistant=assistant, num_assistant_tokens=1, **options)
    assert max(passes[1:]) == 2


@pytest.mark.parametrize("options", [GREEDY, SAMPLED | {"top_k": 0, "temperature": 1.0}])
def test_a_model_that_drafts_for_itself_is_always_right(fairytale, full_bundle, monkeypatch, options):
    twin = onnxgpt.load(full_bundle.directory, threads=2)
    # Only an assistant with less to read is worth its time.
    monkeypatch.setattr(type(full_bundle), "weight_bytes", property(lambda bundle: 1 if bundle is twin.bundle else 100))
    plain = fairytale.generate(PROMPTS[0], **options)[0]
    passes = count_passes(fairytale, monkeypatch)
    assert_same(fairytale.generate(PROMPTS[0], assistant=twin, num_assistant_tokens=5, **options)[0], plain)
    assert sum(passes[1:]) == plain.completion_tokens - 1  # no candidate was read in vain
    assert len(passes) <= 16


def test_an_assistant_that_costs_as_much_soon_falls_silent(fairytale, small, monkeypatch):
    monkeypatch.setattr("onnxgpt.runtime.speculation._LAYER_OVERHEAD", 10**12)
    options = GREEDY | {"max_new_tokens": 150}
    plain = fairytale.generate(PROMPTS[1], **options)[0]
    drafts = count_passes(small, monkeypatch)
    assert_same(fairytale.generate(PROMPTS[1], assistant=small, **options)[0], plain)
    assert 0 < len(drafts) < 30


def test_an_assistant_that_is_always_wrong_falls_silent(fairytale, full_bundle, monkeypatch):
    liar = onnxgpt.load(full_bundle.directory, threads=2)
    monkeypatch.setattr(
        type(full_bundle), "weight_bytes", property(lambda bundle: 10 if bundle is liar.bundle else 100)
    )
    options = GREEDY | {"max_new_tokens": 150}
    plain = fairytale.generate(PROMPTS[1], **options)[0]
    passes = count_passes(fairytale, monkeypatch)
    drafts = count_passes(liar, monkeypatch, change=np.negative)
    assert_same(fairytale.generate(PROMPTS[1], assistant=liar, **options)[0], plain)
    assert len(passes) == plain.completion_tokens
    assert len(drafts) < 40


def test_an_assistant_drafts_as_far_as_its_context_reaches(fairytale, full_bundle, monkeypatch):
    short = onnxgpt.load(full_bundle.directory, threads=2)
    short.context_length = 40
    plain = fairytale.generate(PROMPTS[0], **GREEDY)[0]
    drafts = count_passes(short, monkeypatch)
    passes = count_passes(fairytale, monkeypatch)
    monkeypatch.setattr(
        type(full_bundle), "weight_bytes", property(lambda bundle: 10 if bundle is short.bundle else 100)
    )
    assert_same(fairytale.generate(PROMPTS[0], assistant=short, **GREEDY)[0], plain)
    assert 0 < sum(drafts) <= 45
    assert passes[-20:] == [1] * 20
    drafts.clear()
    prompt = fairytale.tokenizer.encode(PROMPTS[1]) * 6
    plain = fairytale.generate(prompt, **GREEDY)[0]
    assert_same(fairytale.generate(prompt, assistant=short, **GREEDY)[0], plain)
    assert drafts == []


def test_the_context_ends_and_slides_as_without(models):
    target, assistant = models
    prompt = (target.tokenizer.encode("The wolf said to the king that he would go. ") * 60)[
        : target.context_length - 30
    ]
    for options in ({}, {"context_end": "slide", "eos_token_id": ()}):
        plain = target.generate(prompt, do_sample=False, max_new_tokens=50, **options)[0]
        assert_same(
            target.generate(prompt, do_sample=False, max_new_tokens=50, assistant=assistant, **options)[0], plain
        )


def test_streams_give_the_same_events(models):
    target, assistant = models
    options = SAMPLED | {"stop_strings": [" the "], "logprobs": 2}
    plain = list(target.stream(PROMPTS[0], **options))
    ours = list(target.stream(PROMPTS[0], assistant=assistant, **options))
    assert [(each.id, each.text, each.finish_reason) for each in ours] == [
        (each.id, each.text, each.finish_reason) for each in plain
    ]
    assert [[token.id for token in each.top] for each in ours] == [[token.id for token in each.top] for each in plain]


def test_callbacks_and_cancellations_end_a_text_within_a_pass(models):
    target, assistant = models
    taken = []
    completion = target.generate(
        PROMPTS[0], assistant=assistant, on_token=lambda token: taken.append(token.id) or len(taken) == 11, **GREEDY
    )[0]
    assert (completion.finish_reason, len(taken), completion.completion_tokens) == ("callback", 11, 11)
    cancellation = Cancellation()
    taken.clear()

    def cancel_at_seven(token):
        taken.append(token)
        if len(taken) == 7:
            cancellation.cancel()

    completion = target.generate(
        PROMPTS[0], assistant=assistant, on_token=cancel_at_seven, cancellation=cancellation, **GREEDY
    )[0]
    assert (completion.finish_reason, completion.completion_tokens) == ("cancelled", 8)


def test_rows_one_after_the_other_are_those_of_single_calls(fairytale, small):
    options = SAMPLED | {"num_return_sequences": 2}
    plain = fairytale.generate(PROMPTS[:2], **options)
    for ours, theirs in zip(
        fairytale.generate(PROMPTS[:2], batch_size=1, assistant=small, **options), plain, strict=True
    ):
        assert_same(ours, theirs)


def test_memory_of_both_is_counted_and_freed(full_bundle, small):
    target = onnxgpt.load(full_bundle.directory, threads=2, memory_limit="500MB")
    assistant = onnxgpt.load("fairytale", threads=2, memory_limit=small.bundle.weight_bytes + 70 * 12_288)
    used = target.session.budget.used, assistant.session.budget.used
    with target.stream(PROMPTS[0], assistant=assistant, **GREEDY) as stream:
        for _ in range(9):
            next(stream)
        assert target.session.budget.used > used[0]
        assert assistant.session.budget.used > used[1]
    assert (target.session.budget.used, assistant.session.budget.used) == used
    with pytest.raises(MemoryLimitError):
        target.generate(PROMPTS[0], assistant=assistant, do_sample=False, max_new_tokens=200)
    assert (target.session.budget.used, assistant.session.budget.used) == used


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_assistant_tokens": 0}, "num_assistant_tokens is 0: expected a whole number of at least 1"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens and an assistant both given"),
        ({"num_beams": 3}, "num_beams is 3: guesses are checked for one text, .* give num_beams=1, or leave assistant"),
        ({"num_return_sequences": 2, "do_sample": True}, "2 rows are generated at once: .* or leave assistant out"),
    ],
)
def test_wrong_combinations_are_refused(fairytale, small, options, message):
    with pytest.raises(OptionError, match=message):
        fairytale.generate("x", assistant=small, **options)


def test_another_vocabulary_is_refused(fairytale, tiny_llama, small, monkeypatch):
    with pytest.raises(OptionError, match=r"the assistant .* has another vocabulary than fairytale: .* same tokenizer"):
        fairytale.generate("x", assistant=tiny_llama)
    # As many tokens, but others: what decides are the tokenizers' own tables.
    monkeypatch.setattr(small.tokenizer, "has_vocabulary_of", lambda other: False)
    assert fairytale.generate("x", assistant=small, **GREEDY)  # the files are the same
    files = dict(small.bundle.manifest.files)
    files["tokenizer.json"] = dataclasses.replace(files["tokenizer.json"], sha256="0" * 64)
    monkeypatch.setitem(small.bundle.manifest.files, "tokenizer.json", files["tokenizer.json"])
    assert fairytale.generate("x", assistant=small, **GREEDY)  # other files with the same table
    monkeypatch.setattr(fairytale.tokenizer, "has_vocabulary_of", lambda other: False)
    with pytest.raises(OptionError, match="has another vocabulary"):
        fairytale.generate("x", assistant=small)
