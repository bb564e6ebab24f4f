"""Processed distributions and greedy texts against transformers (tests/golden/make_processors.py)."""

import json

import numpy as np
import pytest

from onnxgpt.runtime.config import GenerationConfig
from onnxgpt.runtime.logits import Rows, processors_for, softmax

from .conftest import GOLDEN, load_golden

GOLDENS = json.loads((GOLDEN / "processors.json").read_text())
inputs = load_golden("processor_inputs").inputs


def named(case):
    return f"{case.get('inputs', case.get('model'))} {' '.join(case['options'])}"


def process(case, logits, rows):
    config = GenerationConfig(**(GOLDENS["base"] | case["options"]))
    return processors_for(config, vocabulary_size=logits.shape[1], context_length=100)(rows, logits)


@pytest.mark.parametrize("case", GOLDENS["cases"], ids=named)
def test_the_distribution_is_that_of_transformers(case):
    token_ids, prompt_length, logits = inputs(case["inputs"])
    count = len(token_ids)
    before = logits.copy()
    found = process(case, logits, Rows(token_ids.tolist(), [prompt_length] * count, [0] * count))
    np.testing.assert_array_equal(logits, before)
    assert found.dtype == np.float32
    for row, expected in zip(softmax(found), case["rows"], strict=True):
        if case["inputs"] == "ties" and "top_p" in case["options"]:
            # Which of equally likely tokens at the border stay is left to an unstable sort there.
            left = np.sort(row[row > 0])
            np.testing.assert_allclose(left, np.sort(expected["probabilities"]), atol=1e-5)
            continue
        assert np.flatnonzero(row).tolist() == expected["ids"]
        np.testing.assert_allclose(row[expected["ids"]], expected["probabilities"], atol=1e-5)


@pytest.mark.parametrize("case", GOLDENS["cases"][:39], ids=named)
def test_rows_of_unequal_length_get_what_they_get_alone(case):
    token_ids, prompt_length, logits = inputs(case["inputs"])
    texts = [row[cut:] for row, cut in zip(token_ids, (0, 3, 10, 14), strict=True)]
    lengths = [max(1, prompt_length - cut) for cut in (0, 3, 10, 14)]
    together = process(case, logits, Rows(texts, lengths, [0] * 4))
    for index, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        alone = process(case, logits[index, None], Rows([text.tolist()], [length], [0]))
        np.testing.assert_array_equal(together[index], alone[0])


@pytest.mark.parametrize("case", GOLDENS["texts"], ids=named)
def test_the_greedy_text_is_that_of_transformers(case, fairytale, tiny_llama):
    model = fairytale if case["model"] == "fairytale" else tiny_llama
    options = {"max_new_tokens": 40} | case["options"]
    if "max_length" in options:
        del options["max_new_tokens"]
    (found,) = model.generate(case["prompt"], do_sample=False, **options)
    assert list(found.token_ids) == case["token_ids"]


def test_there_are_enough_cases_of_a_known_version():
    assert len(GOLDENS["texts"]) >= 30
    assert GOLDENS["versions"]["transformers"] == "5.23.0"
