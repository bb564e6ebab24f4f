"""Prompt lookup and assisted generation against transformers (tests/golden/make_speculation.py)."""

import json

import pytest

import onnxgpt

from .conftest import GOLDEN

RECORD = json.loads((GOLDEN / "speculation.json").read_text())


@pytest.fixture(scope="module")
def assistant():
    """The model in int8, as it is in the package."""
    return onnxgpt.load("fairytale", threads=2)


@pytest.mark.parametrize("case", RECORD["cases"], ids=range(len(RECORD["cases"])))
def test_the_text_is_that_of_transformers(case, fairytale, assistant, monkeypatch):
    monkeypatch.setattr("onnxgpt.runtime.speculation._LAYER_OVERHEAD", 0)  # else none pays for so tiny a model
    passes = []
    step = fairytale.session.step
    monkeypatch.setattr(
        fairytale.session, "step", lambda ids, cache, keep=1: passes.append(ids.shape[1]) or step(ids, cache, keep)
    )
    options = dict(case["options"])
    if options.pop("assistant", False):
        options["assistant"] = assistant
    found = fairytale.generate(case["prompt"], do_sample=False, **options)[0]
    assert list(found.token_ids) == case["sequence"]
    if "assistant" in options:
        assert len(passes) < found.completion_tokens / 2


def test_the_values_are_of_a_known_version():
    assert RECORD["versions"]["transformers"].startswith("5.")
    assert len(RECORD["cases"]) >= 10
