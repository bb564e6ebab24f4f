"""`onnxgpt generate`: text on stdout, the rest on stderr, and every way to give a prompt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import onnxgpt

from .conftest import COMMAND, Run

PROMPT = "Once upon a time"


def test_prints_the_text_alone_on_stdout(onnxgpt_command: Run) -> None:
    done = onnxgpt_command("generate", PROMPT, "--seed", "7", "--max-new-tokens", "24")
    expected = onnxgpt.load("fairytale").generate(PROMPT, seed=7, max_new_tokens=24)[0].text

    assert (done.returncode, done.stdout, done.stderr) == (0, expected + "\n", "")


def test_the_same_seed_repeats_the_text_and_a_drawn_one_is_reported(onnxgpt_command: Run) -> None:
    drawn = onnxgpt_command("generate", PROMPT, "--max-new-tokens", "24")
    seed = drawn.stderr.split()[1]
    again = onnxgpt_command("generate", PROMPT, "--max-new-tokens", "24", "--seed", seed)

    assert drawn.stderr == f"seed {seed} (--seed {seed} repeats this text)\n"
    assert again.stdout == drawn.stdout


def test_greedy_text_has_no_seed_to_report(onnxgpt_command: Run) -> None:
    done = onnxgpt_command("generate", PROMPT, "--no-do-sample", "--max-new-tokens", "8")

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("way", ["argument", "file", "pipe", "dash"])
def test_a_prompt_comes_as_argument_from_a_file_or_through_a_pipe(
    onnxgpt_command: Run, tmp_path: Path, way: str
) -> None:
    (tmp_path / "prompt.txt").write_text(PROMPT + "\n", encoding="utf-8")
    arguments = {"argument": [PROMPT], "file": ["--file", "prompt.txt"], "pipe": [], "dash": ["--file", "-"]}[way]
    stdin = PROMPT + "\n" if way in ("pipe", "dash") else ""
    done = onnxgpt_command("generate", *arguments, "--seed", "7", "--max-new-tokens", "8", stdin=stdin)
    expected = onnxgpt.load("fairytale").generate(PROMPT, seed=7, max_new_tokens=8)[0].text

    assert (done.returncode, done.stdout) == (0, expected + "\n")


def test_json_is_the_whole_completion(onnxgpt_command: Run) -> None:
    done = onnxgpt_command("generate", PROMPT, "--json", "--seed", "7", "--max-new-tokens", "8")
    expected = onnxgpt.load("fairytale").generate(PROMPT, seed=7, max_new_tokens=8)[0]
    found = json.loads(done.stdout)

    assert set(found) == set(vars(expected))
    assert found["text"] == expected.text
    assert tuple(found["token_ids"]) == expected.token_ids
    assert found["logprobs"] == pytest.approx(expected.logprobs, abs=1e-6)
    assert (found["finish_reason"], found["seed"], found["completion_tokens"]) == ("length", 7, 8)


def test_several_sequences_are_several_json_lines_or_texts_apart(onnxgpt_command: Run) -> None:
    options = ["--num-return-sequences", "3", "--seed", "7", "--max-new-tokens", "8"]
    lines = onnxgpt_command("generate", PROMPT, "--json", *options).stdout.splitlines()
    text = onnxgpt_command("generate", PROMPT, *options).stdout

    texts = [json.loads(line)["text"] for line in lines]
    assert len(set(texts)) == 3
    assert text == "\n---\n".join(texts) + "\n"


def test_text_is_utf8_in_any_locale(onnxgpt_command: Run) -> None:
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}
    options = ["--no-do-sample", "--max-new-tokens", "4", "--file", "-"]
    plain = onnxgpt_command("generate", *options, stdin="“Who art thou?”")
    done = onnxgpt_command("generate", *options, stdin="“Who art thou?”", env=odd)

    assert (done.returncode, done.stdout, done.stderr) == (0, plain.stdout, "")


def test_chat_needs_a_template(onnxgpt_command: Run) -> None:
    done = onnxgpt_command("generate", "--chat", "Hello")

    assert (done.returncode, done.stdout) == (2, "")
    assert "has no chat template" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_while_streaming_ends_cleanly(tmp_path: Path) -> None:
    # The rest of 500 tokens takes much longer than the signal after the first one.
    command = [*COMMAND, "generate", PROMPT, "--provider", "cpu", "--max-new-tokens", "500", "--seed", "7"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        # A test run in the background of a shell ignores the signal, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = os.read(process.stdout.fileno(), 1)
        process.send_signal(signal.SIGINT)
        rest, complaint = process.stdout.read(), process.stderr.read()

    assert process.returncode == 130
    assert (first + rest).endswith(b"\n")
    assert (first + rest).count(b"\n\n\n") == 0
    assert complaint == b""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = [*COMMAND, "generate", PROMPT, "--provider", "cpu", "--max-new-tokens", "400", "--seed", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 1)
        process.stdout.close()
        complaint = process.stderr.read()

    assert process.returncode == 141
    assert complaint == b""
