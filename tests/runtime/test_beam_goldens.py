"""Beam search against transformers: the same tokens, and scores within 1e-4 (tests/golden/make_beams.py)."""

import json

import pytest

from .conftest import GOLDEN

# transformers gives what its options default to; those of our bundles say otherwise.
PLAIN = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 1.0}


def cases(name):
    for index, case in enumerate(json.loads((GOLDEN / name).read_text())["cases"]):
        yield pytest.param(case, id=f"{name} {index}")


@pytest.mark.parametrize("case", [*cases("beams.json"), *cases("beam_groups.json")])
def test_the_texts_and_scores_are_those_of_transformers(case, fairytale, tiny_llama):
    model = fairytale if case["model"] == "fairytale" else tiny_llama
    options = (SAMPLED if "seed" in case["options"] else PLAIN) | case["options"]
    found = model.generate(case["prompts"], **options)
    assert [list(completion.token_ids) for completion in found] == case["sequences"]
    assert [completion.score for completion in found] == pytest.approx(case["scores"], abs=1e-4, rel=1e-6)
    count = case["options"].get("num_return_sequences", 1)
    assert [completion.prompt_index * count + completion.sequence_index for completion in found] == list(
        range(len(found))
    )


def test_there_are_enough_cases_of_known_versions():
    plain, groups = (json.loads((GOLDEN / name).read_text()) for name in ("beams.json", "beam_groups.json"))
    assert len(plain["cases"]) + len(groups["cases"]) >= 40
    assert plain["versions"]["transformers"].startswith("5.")
    assert groups["versions"]["transformers"].startswith("4.50.")
