"""`score --against`: a bundle judged by another one from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Run

SMALL = ["--tokens", "256", "--window", "128", "--threads", "1"]


def test_the_table_the_figures_and_the_picture_are_one_report(onnxgpt_command: Run, tmp_path: Path) -> None:
    plain = onnxgpt_command("score", "--against", "fairytale", *SMALL)
    found = json.loads(onnxgpt_command("score", "--against", "fairytale", "--json", *SMALL, "--plot", "x.png").stdout)

    assert plain.stderr == ""
    assert [line.split("  ")[0] for line in plain.stdout.splitlines()] == [
        "model", "against", "text", "perplexity", "mean KL", "top-1 agreement", "greedy agreement", "layer errors",
    ]  # fmt: skip
    assert found["tokens"] == 256
    assert found["mean_kl"] < 1e-10
    assert f"{found['perplexity']:.4f} against {found['reference_perplexity']:.4f}" in plain.stdout
    assert len(found["layer_errors"]) == 6
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_a_text_file_is_read_and_named(onnxgpt_command: Run, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("Once upon a time there was a king. " * 40, encoding="utf-8")
    found = onnxgpt_command("score", "--against", "fairytale", "--json", "--file", "story.txt", *SMALL)

    assert json.loads(found.stdout)["text"]["name"] == "story.txt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hello", "--against", "fairytale"], "TEXT has no effect with --against"),
        (["--against", "fairytale", "--memory-limit", "1GB"], "--memory-limit has no effect with --against"),
        (["hello", "--tokens", "3"], "--tokens has no effect without --against"),
        (["--against", "fairytale", "--candidate", "x"], "--candidate has no effect with --against"),
        (["hello", "--plot", "x.png"], "--plot has no effect without --against"),
        (["--against", "fairytale", "--plot", "x.jpg"], "x.jpg does not end in .png"),
        (["--against", "fairytale", "--window", "1000"], "the model's context holds 512 tokens"),
        (["--against", "fairytale", "--tokens", "100"], "tokens is 100: expected at least one window of 512"),
        (["--against", "fairytale", "--file", "none.txt"], "none.txt can't be read"),
        (["--against", "fairytale", "--file", "-"], "stdin is empty"),
    ],
)
def test_what_was_asked_wrongly_is_one_line(onnxgpt_command: Run, arguments: list[str], message: str) -> None:
    done = onnxgpt_command("score", *arguments)

    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_reference_that_is_nothing_is_named(onnxgpt_command: Run) -> None:
    done = onnxgpt_command("score", "--against", "./nobody")

    assert done.returncode == 1
    assert "./nobody" in done.stderr
    assert done.stderr.count("\n") == 1
