"""`onnxgpt generate` with prompt lookup and with an assistant."""

from __future__ import annotations

import onnxgpt

from .conftest import Run

PROMPT = "'Who is there?' said the wolf. " * 4


def test_prompt_lookup_has_flags(onnxgpt_command: Run) -> None:
    options = ["--prompt-lookup-num-tokens", "8", "--max-matching-ngram-size", "2", "--max-new-tokens", "30"]
    done = onnxgpt_command("generate", PROMPT, "--no-do-sample", *options)
    expected = onnxgpt.load("fairytale").generate(
        PROMPT, do_sample=False, prompt_lookup_num_tokens=8, max_matching_ngram_size=2, max_new_tokens=30
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, expected[0].text + "\n", "")


def test_an_assistant_is_a_name_or_a_directory(onnxgpt_command: Run) -> None:
    options = ["--num-assistant-tokens", "4", "--seed", "7", "--max-new-tokens", "30"]
    model = onnxgpt.load("fairytale")
    expected = model.generate(PROMPT, assistant=model, num_assistant_tokens=4, seed=7, max_new_tokens=30)[0].text

    for assistant in ("fairytale", str(model.bundle.directory)):
        done = onnxgpt_command("generate", PROMPT, "--assistant", assistant, *options)
        assert (done.returncode, done.stdout, done.stderr) == (0, expected + "\n", "")


def test_wrong_combinations_are_refused_in_one_line(onnxgpt_command: Run) -> None:
    for arguments, code, message in (
        (["--assistant", "nowhere"], 1, "nowhere is neither a directory nor a model"),
        (["--assistant", "fairytale", "--prompt-lookup-num-tokens", "3"], 2, "an assistant both given"),
        (["--num-assistant-tokens", "3"], 2, "num_assistant_tokens has no effect without an assistant"),
        (
            ["--prompt-lookup-num-tokens", "3", "--num-beams", "2"],
            2,
            "num_beams is 2: guesses are checked for one text",
        ),
    ):
        done = onnxgpt_command("generate", PROMPT, *arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
