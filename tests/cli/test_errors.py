"""Errors of the command line: one line on stderr, nothing on stdout, 2 for usage and 1 for failure."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import onnxgpt
from onnxgpt.loading import find_bundle

from .conftest import Run

USAGE = [
    (["generate", "x", "--temprature", "1"], "--temperature"),
    (["generate", "x", "--temperature", "-1"], "temperature is -1.0"),
    (["generate", "x", "--top-p", "0"], "top_p is 0.0"),
    (["generate", "x", "--top-k", "-1"], "top_k is -1"),
    (["generate", "x", "--no-do-sample", "--seed", "7"], "seed has no effect"),
    (["generate", "x", "--max-length", "9", "--max-new-tokens", "9"], "expected one of them"),
    (["generate", "x", "--memory-limit", "lots"], "500MB or 2GiB|expected bytes"),
    (["generate", "x", "--threads", "0"], "0 is not in the range"),
    (["generate", "x", "--file", "y"], "give one"),
    (["generate", "--file", "missing.txt"], "missing.txt cannot be read"),
    (["generate", ""], "the prompt is empty"),
    (["generate"], "the prompt is empty"),  # stdin is an empty pipe here
    (["generate", "word " * 600], "and the context 512|more than the context's 512"),
    (["score", "word " * 600], "more than the context's 512"),
    (["score", "a"], "expected two or more"),
    (["tell"], "No such command 'tell'"),
    (["export", "x"], "--out"),
    (["verify", "fairytale", "--revision", "x"], "no effect without --against"),
    (["bench", "--new-tokens", "600"], "do not fit the context of 512"),
]
FAILURES = [
    (["generate", "x", "--model", "nowhere"], "neither a directory nor a model of the catalogue"),
    (["generate", "x", "--model", "smollm2-135m-instruct"], "onnxgpt export smollm2-135m-instruct"),
    (["generate", "x", "--model", "."], "bundle.json"),
    (["generate", "x", "--provider", "cuda"], r"onnxgpt\[cuda\]|has no kernels|exported for cpu"),
    (["generate", "x", "--memory-limit", "1MB"], "over the limit of 1.0 MB"),
    (["info", "nowhere"], "neither a directory"),
    (["pull", "nothing"], "catalogue has no 'nothing'"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE, ids=lambda value: " ".join(value)[:40])
def test_a_wrong_question_exits_with_2(onnxgpt_command: Run, arguments: list[str], message: str) -> None:
    check_one_line(onnxgpt_command(*arguments), 2, message)


@pytest.mark.parametrize(("arguments", "message"), FAILURES, ids=lambda value: " ".join(value)[:40])
def test_a_failure_exits_with_1(onnxgpt_command: Run, arguments: list[str], message: str) -> None:
    check_one_line(onnxgpt_command(*arguments), 1, message)


def check_one_line(done: subprocess.CompletedProcess[str], status: int, message: str) -> None:
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr), done.stderr


def test_debug_shows_the_traceback_before_the_line(onnxgpt_command: Run) -> None:
    done = onnxgpt_command("generate", "x", "--model", "nowhere", "--debug")

    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("error: nowhere is neither")


def test_text_that_is_not_utf8_is_refused(onnxgpt_command: Run, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("König".encode("latin-1"))

    check_one_line(onnxgpt_command("generate", "--file", "latin.txt"), 2, "latin.txt is not UTF-8")


def test_a_damaged_bundle_is_named(onnxgpt_command: Run, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(find_bundle("fairytale"), bundle)
    weights = max(bundle.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)

    check_one_line(onnxgpt_command("verify", "bundle"), 1, f"{weights.name} has sha256 .* the file was changed")

    os.truncate(weights, len(content) - 1)
    check_one_line(onnxgpt_command("generate", "x", "--model", "bundle"), 1, f"{weights.name} has .* bytes")


def test_a_graph_that_is_none_is_named(onnxgpt_command: Run, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(find_bundle("fairytale"), bundle)
    graph = bundle / "model.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))

    for arguments in (["info", "bundle"], ["generate", "x", "--model", "bundle"]):
        check_one_line(onnxgpt_command(*arguments), 1, "model.onnx can't be loaded .* export the model again")


def test_no_command_shows_help_and_exits_with_2(onnxgpt_command: Run) -> None:
    done = onnxgpt_command()

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: onnxgpt")


def test_version(onnxgpt_command: Run) -> None:
    assert onnxgpt_command("--version").stdout == f"onnxgpt {onnxgpt.__version__}\n"
