"""Whole texts on a device: the same with a CUDA graph and without, in batches and alone, and as on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import onnxgpt
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.model import Model
from onnxgpt.runtime.results import Completion

PROMPTS = ["Once upon a time", "The old king had three sons, and the youngest of them was", "A fox"]
GREEDY: dict[str, Any] = {"do_sample": False, "eos_token_id": [], "logprobs": 2, "max_new_tokens": 40}
CLOSE = 0.05  # nats: two tokens as near as that may change places where another kernel rounds otherwise


def assert_same_text(found: Completion, expected: Completion) -> None:
    """The same tokens, up to where the two likeliest ones are as good as equal."""
    for place, (mine, theirs) in enumerate(zip(found.token_ids, expected.token_ids, strict=True)):
        if mine != theirs:
            first, second = expected.top_logprobs[place]
            assert first.logprob - second.logprob < CLOSE, f"token {place}: {mine} is not {theirs}"
            return
        assert abs(found.logprobs[place] - expected.logprobs[place]) < CLOSE


def test_a_text_is_that_of_the_cpu(model: Model, float16_bundle: Bundle) -> None:
    on_the_cpu = onnxgpt.load(float16_bundle.directory, provider="cpu")
    [found], [expected] = (each.generate(PROMPTS[0], **GREEDY) for each in (model, on_the_cpu))

    assert_same_text(found, expected)


def test_rows_of_a_ragged_batch_are_those_alone(model: Model) -> None:
    together = model.generate(PROMPTS, **GREEDY)

    for prompt, found in zip(PROMPTS, together, strict=True):
        assert_same_text(found, model.generate(prompt, **GREEDY)[0])


def test_rows_that_end_leave_the_others_as_they_are(model: Model) -> None:
    """Rows leave and others take their places: the cache's rows move on the device."""
    limits = GREEDY | {"batch_size": 2}
    waiting = model.generate(PROMPTS * 2, **limits)

    for prompt, found in zip(PROMPTS * 2, waiting, strict=True):
        assert_same_text(found, model.generate(prompt, **GREEDY)[0])


def test_the_same_call_gives_the_same_text(model: Model) -> None:
    options: dict[str, Any] = {"do_sample": True, "seed": 5, "max_new_tokens": 40, "num_return_sequences": 3}

    first, second = (model.generate(PROMPTS, **options) for _ in range(2))
    assert [each.token_ids for each in first] == [each.token_ids for each in second]


def test_beams_find_what_they_find_on_the_cpu(model: Model, float16_bundle: Bundle) -> None:
    options: dict[str, Any] = {"do_sample": False, "num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 20}
    on_the_cpu = onnxgpt.load(float16_bundle.directory, provider="cpu")
    found, expected = (each.generate(PROMPTS[0], **options) for each in (model, on_the_cpu))

    assert found[0].score == pytest.approx(expected[0].score, abs=CLOSE)
    assert found[1].score == pytest.approx(expected[1].score, abs=CLOSE)


def test_a_long_text_lets_the_cache_grow(model: Model) -> None:
    """In steps, and not to the context's end at once."""
    [completion] = model.generate(PROMPTS[0], **GREEDY | {"max_new_tokens": 200})
    [shorter] = model.generate(PROMPTS[0], **GREEDY)

    assert completion.token_ids[:40] == shorter.token_ids


def test_a_recorded_step_gives_the_same_tokens(
    open_model: Callable[..., Model], provider: str, float16_bundle: Bundle, model: Model
) -> None:
    if provider == "cpu":
        pytest.skip("CUDA graphs are CUDA's")
    recorded = open_model(float16_bundle, cuda_graph=True)
    assert recorded.session.place.cuda_graph
    for options in (GREEDY, {"do_sample": True, "seed": 2, "max_new_tokens": 60}, GREEDY | {"max_new_tokens": 120}):
        found, expected = recorded.generate(PROMPTS, **options), model.generate(PROMPTS, **options)
        assert [each.token_ids for each in found] == [each.token_ids for each in expected]


def test_auto_takes_the_device(provider: str, float16_bundle: Bundle) -> None:
    if provider == "cpu" and "CUDAExecutionProvider" in onnxgpt.runtime.engine.ort.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed here")
    found = onnxgpt.load(float16_bundle.directory)

    assert found.session.provider == provider
    assert found.session.place.reason
