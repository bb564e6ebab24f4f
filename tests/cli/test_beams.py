"""Beams on the command line, as GPT-2 tutorials ask for them."""

from __future__ import annotations

import json

import pytest

import onnxgpt
from onnxgpt.runtime.model import Model

from .conftest import Run

PROMPT = "Once upon a time"
TUTORIAL = ["--max-length", "100", "--num-beams", "5", "--num-return-sequences", "3", "--no-repeat-ngram-size", "2"]


@pytest.fixture(scope="module")
def model() -> Model:
    return onnxgpt.load("fairytale")


def test_the_flags_of_tutorials_work(onnxgpt_command: Run, model: Model) -> None:
    # The switch stands before the prompt, which is not its word.
    done = onnxgpt_command("generate", *TUTORIAL, "--no-do-sample", "--early-stopping", PROMPT)
    found = model.generate(
        PROMPT,
        do_sample=False,
        max_length=100,
        num_beams=5,
        num_return_sequences=3,
        no_repeat_ngram_size=2,
        early_stopping=True,
    )

    assert done.stdout == "\n---\n".join(completion.text for completion in found) + "\n"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (["--early-stopping", "never"], "never"),
        (["--early-stopping=never"], "never"),
        (["--early-stopping", "false"], False),
        (["--early-stopping"], True),
        ([], False),
    ],
)
def test_early_stopping_is_a_switch_or_has_a_word(
    written: list[str], value: object, onnxgpt_command: Run, model: Model
) -> None:
    options = ["--num-beams", "3", "--no-do-sample", "--max-new-tokens", "30", "--length-penalty", "0", "--json"]
    done = onnxgpt_command("generate", PROMPT, "--eos-token-id", "12", *options, *written)
    asked = {"num_beams": 3, "do_sample": False, "max_new_tokens": 30, "length_penalty": 0.0, "eos_token_id": 12}
    expected = model.generate(PROMPT, early_stopping=value, **asked)[0]

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["token_ids"] == list(expected.token_ids)
    assert told["score"] == pytest.approx(expected.score)


def test_what_stands_behind_two_dashes_is_no_switch(onnxgpt_command: Run) -> None:
    done = onnxgpt_command("generate", "--num-beams", "2", "--max-new-tokens", "2", "--", "--early-stopping")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--early-stopping"], "early_stopping has no effect without beams"),
        (["--num-beams", "2", "--early-stopping=soon"], "'soon' is not one of 'true', 'false', 'never'"),
        (["--num-beams", "2", "--num-return-sequences", "3"], "num_return_sequences is 3 and num_beams 2"),
    ],
)
def test_wrong_beams_are_refused_in_one_line(options: list[str], message: str, onnxgpt_command: Run) -> None:
    done = onnxgpt_command("generate", PROMPT, *options)

    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
