"""Generation with a graph that chooses tokens itself, against the same graph read through its logits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import onnxgpt
from onnxgpt.graphs.choices import add_choices
from onnxgpt.graphs.writing import extend_model
from onnxgpt.runtime.bundle import Bundle, seal
from onnxgpt.runtime.model import Model
from onnxgpt.runtime.reading import last_position
from onnxgpt.runtime.session import Session

from .device_sessions import model_on_device

PROMPTS = ["Once upon a time", "The old king had three sons, and the youngest"]
NEW = 30
GREEDY: dict[str, Any] = {"do_sample": False}
SAMPLED: dict[str, Any] = {"do_sample": True, "seed": 11}


@pytest.fixture(scope="module")
def choosing(full_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The fairy-tale model in float32, which can be compared to the last digit, with the choosing outputs."""
    directory = tmp_path_factory.mktemp("choosing") / "fairytale"
    shutil.copytree(full_bundle.directory, directory)
    graph = ir.load(directory / "model.onnx")
    assert add_choices(graph)
    extend_model(graph, directory)
    record = replace(full_bundle.manifest.graph, outputs=tuple(str(value.name) for value in graph.graph.outputs))
    seal(directory, replace(full_bundle.manifest, graph=record))
    return onnxgpt.load(directory, threads=2)


class Steps:
    """Counts a session's steps that bring choices, and those of them whose logits are fetched after all."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch):
        self.chosen = self.fetched = 0
        step, fetch = session.step_choices, session.last_logits

        def step_choices(ids: Any, cache: Any) -> Any:
            self.chosen += 1
            return step(ids, cache)

        def last_logits(cache: Any) -> Any:
            self.fetched += 1
            return fetch(cache)

        monkeypatch.setattr(session, "step_choices", step_choices)
        monkeypatch.setattr(session, "last_logits", last_logits)


@pytest.fixture
def steps(choosing: Model, monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(choosing.session, monkeypatch)


@pytest.fixture
def by_logits(choosing: Model, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets the model look at logits alone, as if its graph chose nothing."""

    def switch() -> None:
        monkeypatch.setattr(choosing.session, "spec", replace(choosing.session.spec, choices=0))

    return switch


def test_the_session_tells_how_many_it_gives_out(choosing: Model) -> None:
    assert choosing.session.spec.choices == 64
    assert choosing.session.output_names[-4:] == ("greedy_ids", "top_ids", "top_logits", "log_normalizer")


def test_a_step_gives_choices_and_then_its_logits(choosing: Model) -> None:
    session = choosing.session
    cache, other = session.new_cache(), session.new_cache()
    prompt = np.array([choosing.tokenizer.encode(PROMPTS[0])], np.int64)
    for ids in (prompt, np.array([[7]]), np.array([[9]])):  # a prompt, and single steps
        expected = last_position(session.step(ids, other)).copy()
        choices = session.step_choices(ids, cache)
        order = np.argsort(-expected[0], kind="stable")[:64]

        assert choices.greedy.tolist() == [order[0]]
        np.testing.assert_array_equal(choices.ids[0], order)
        np.testing.assert_allclose(choices.logits[0], expected[0, order], atol=1e-5)
        np.testing.assert_allclose(choices.normalizers, np.log(np.exp(expected).sum(axis=1)), atol=1e-5)
        assert [each.dtype for each in (choices.greedy, choices.ids, choices.logits, choices.normalizers)] == [
            np.int64,
            np.int64,
            np.float32,
            np.float32,
        ]
        np.testing.assert_allclose(session.last_logits(cache), expected, atol=1e-5)
    assert cache.length == other.length
    cache.close()
    other.close()


# Options, and how many of their steps the choices are enough for.
OPTIONS: list[tuple[dict[str, Any], str]] = [
    (GREEDY, "all"),
    (GREEDY | {"logprobs": 5}, "all"),
    (SAMPLED | {"temperature": 0.8, "top_k": 40}, "all"),
    (SAMPLED | {"top_k": 50, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.95}, "all"),
    (SAMPLED | {"top_k": 20, "xtc_probability": 0.5, "logprobs": 2}, "all"),
    (SAMPLED | {"top_k": 0, "min_p": 0.1}, "all"),
    (SAMPLED | {"top_k": 0, "top_p": 0.6}, "some"),
    (SAMPLED | {"top_k": 0, "top_p": 0.9, "temperature": 0.7}, "some"),
    (SAMPLED | {"top_k": 0}, "none"),
    (GREEDY | {"repetition_penalty": 1.3}, "none"),
    (GREEDY | {"num_beams": 4, "num_return_sequences": 2}, "all"),
    (GREEDY | {"num_beams": 3, "length_penalty": 0.5, "early_stopping": True, "logprobs": 2}, "all"),
    (GREEDY | {"num_beams": 4, "no_repeat_ngram_size": 3}, "none"),
    (GREEDY | {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, "none"),
    (SAMPLED | {"num_beams": 3}, "none"),
]


@pytest.mark.parametrize(("options", "enough_for"), OPTIONS, ids=str)
def test_texts_are_those_of_all_logits(
    choosing: Model, steps: Steps, by_logits: Callable[[], None], options: dict[str, Any], enough_for: str
) -> None:
    found = choosing.generate(PROMPTS, max_new_tokens=NEW, eos_token_id=[], **options)
    chosen, fetched = steps.chosen, steps.fetched
    by_logits()
    expected = choosing.generate(PROMPTS, max_new_tokens=NEW, eos_token_id=[], **options)

    for mine, theirs in zip(found, expected, strict=True):
        assert mine.token_ids == theirs.token_ids
        assert mine.text == theirs.text
        np.testing.assert_allclose(mine.logprobs, theirs.logprobs, rtol=0, atol=1e-5)
        ranked = [[[each.id for each in top] for top in one.top_logprobs] for one in (mine, theirs)]
        assert ranked[0] == ranked[1]
    assert (steps.chosen, steps.fetched) == (chosen, fetched)  # without choices nobody asks for them
    assert chosen == 0 if enough_for == "none" else chosen >= NEW - 1
    assert 0 < fetched < chosen if enough_for == "some" else fetched == 0


def test_what_the_bundle_samples_by_default_fetches_no_logits(choosing: Model, steps: Steps) -> None:
    choosing.generate(PROMPTS, max_new_tokens=NEW, num_return_sequences=2, seed=1, eos_token_id=[])

    assert (steps.chosen, steps.fetched) == (NEW - 1, 0)  # the first tokens come with the prompts


def test_sequences_that_end_at_different_steps_and_wait_for_places(
    choosing: Model, steps: Steps, by_logits: Callable[[], None]
) -> None:
    options = SAMPLED | {"num_return_sequences": 3, "batch_size": 4, "max_new_tokens": 40, "top_k": 30}
    found = choosing.generate(PROMPTS, **options)
    assert steps.chosen > 40
    assert steps.fetched == 0
    by_logits()

    assert [each.token_ids for each in found] == [each.token_ids for each in choosing.generate(PROMPTS, **options)]


@pytest.mark.parametrize(
    "options",
    [GREEDY, SAMPLED | {"num_return_sequences": 2}, GREEDY | {"num_beams": 4}, SAMPLED | {"top_k": 0, "top_p": 0.6}],
    ids=str,
)
def test_steps_on_a_device_bring_the_same(
    choosing: Model, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = model_on_device(choosing)
    steps = Steps(device.session, monkeypatch)
    found, expected = (each.generate(PROMPTS, max_new_tokens=NEW, **options) for each in (device, choosing))

    assert [each.token_ids for each in found] == [each.token_ids for each in expected]
    assert [each.logprobs for each in found] == [each.logprobs for each in expected]
    assert steps.chosen > 0
    assert steps.fetched == 0 or "top_p" in options
