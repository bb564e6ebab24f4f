"""`onnxgpt generate --batch`: many prompts from a file, in processes that are killed, stopped and starved of room."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import onnxgpt
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.model import Model

from .conftest import COMMAND, Run

PROMPTS = [
    "Once upon a time",
    "The wolf said to the little girl that",
    "x",
    "The king's daughter went into the forest, and there she met an old woman",
    "'What do you want?' said the wolf.",
    "And when they came",
]
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and limits")


@pytest.fixture(scope="module")
def model(full_bundle: Bundle) -> Model:
    """In full precision: an 8-bit model rounds a single row's activations otherwise than a batch's."""
    return onnxgpt.load(full_bundle.directory)


def write_lines(path: Path, lines: Sequence[Any]) -> None:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("size", ["1", "4"])
def test_each_line_gets_what_it_gets_alone(
    size: str, onnxgpt_command: Run, tmp_path: Path, model: Model, full_bundle: Bundle
) -> None:
    own = {"max_new_tokens": 9, "stop_strings": ["."]}
    lines: list[dict[str, Any]] = [{"prompt": prompt, "id": f"no {index}"} for index, prompt in enumerate(PROMPTS)]
    lines[1]["options"] = own
    lines[4]["options"] = {"seed": 99}
    lines[5]["options"] = {"do_sample": False, "num_return_sequences": 1}  # so that seed and top-k are not for it
    write_lines(tmp_path / "in.jsonl", lines)
    options = [
        "--batch-size",
        size,
        "--seed",
        "7",
        "--max-new-tokens",
        "20",
        "--num-return-sequences",
        "2",
        "--top-k",
        "9",
    ]
    bundle = ["--model", str(full_bundle.directory)]
    done = onnxgpt_command("generate", "--batch", "in.jsonl", "--out", "out.jsonl", *options, *bundle)

    assert (done.returncode, done.stdout, done.stderr) == (0, "out.jsonl\n", "6 lines of in.jsonl done\n")
    shared: dict[str, Any] = {"seed": 7, "max_new_tokens": 20, "num_return_sequences": 2, "top_k": 9}
    told = [shared | line.get("options", {}) for line in lines]
    told[5] = {"do_sample": False, "max_new_tokens": 20}
    expected = [
        (index + 1, f"no {index}", each.sequence_index, each.text, list(each.token_ids), each.finish_reason, each.seed)
        for index, prompt in enumerate(PROMPTS)
        for each in model.generate(prompt, **told[index])
    ]
    names = ("line", "id", "sequence_index", "text", "token_ids", "finish_reason", "seed")
    assert [tuple(record[name] for name in names) for record in records(tmp_path / "out.jsonl")] == expected


def test_bad_lines_are_told_by_number_and_the_rest_goes_on(onnxgpt_command: Run, tmp_path: Path) -> None:
    bad: dict[int, tuple[Any, str]] = {
        2: ("not json", "not JSON"),
        4: ({"text": "x"}, "unknown key 'text'"),
        5: ({"id": 3}, "no prompt and messages"),
        6: ({"prompt": "x", "options": {"temprature": 1}}, "did you mean temperature?"),
        7: ({"prompt": "x" * 3000}, "the context 512"),
        8: ({"prompt": "x", "options": {"suppress_tokens": [99999]}}, "suppress_tokens holds token id 99999"),
        9: ({"messages": [{"role": "user", "content": "Hello"}]}, "no chat template"),
        10: ({"messages": "Hello"}, "messages are no list"),
        11: ('"x"', "str instead of an object"),
        12: ({"prompt": ""}, "the prompt is empty"),
        13: ({"prompt": "x", "options": {"logit_bias": [[i, "-inf"] for i in range(2)]}}, "holds the bias '-inf'"),
    }
    lines = [bad[number][0] if number in bad else {"prompt": PROMPTS[0]} for number in range(1, 15)]
    write_lines(tmp_path / "in.jsonl", [*lines[:2], "", *lines[3:]])  # line 3 is empty: passed over
    command = ["generate", "--batch", "in.jsonl", "--out", "out.jsonl", "--seed", "1", "--max-new-tokens", "4"]
    done = onnxgpt_command(*command)

    assert done.returncode == 1
    told = {int(line.split()[1]): line for line in done.stderr.splitlines() if line.startswith("line ")}
    assert told.keys() == bad.keys()
    found = {record["line"]: record for record in records(tmp_path / "out.jsonl")}
    assert list(found) == [1, 2, *range(4, 15)]
    for number, (_, message) in bad.items():
        assert message in told[number]
        assert message in found[number]["error"]
    assert found[1]["text"] == found[14]["text"] != ""
    assert done.stderr.splitlines()[-1].startswith("error: 11 of 13 lines failed")

    # Mended lines are done, and no other: the results that are there stay as they are, to the byte.
    write_lines(tmp_path / "in.jsonl", [{"prompt": PROMPTS[0]}] * 14)
    kept = [line for line in (tmp_path / "out.jsonl").read_bytes().splitlines() if b'"error"' not in line]
    done = onnxgpt_command(*command)
    assert done.returncode == 0
    assert done.stderr == "12 lines of in.jsonl done, 2 were done before\n"
    written = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["line"] for line in written] == list(range(1, 15))
    assert set(kept) <= set(written)


@posix_only
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])  # Windows has no SIGKILL to name
def test_a_run_that_was_ended_goes_on_to_the_same_results(name: str, onnxgpt_command: Run, tmp_path: Path) -> None:
    how = signal.Signals[name]
    lines = [{"prompt": f"{prompt} {index}", "id": index} for index, prompt in enumerate(PROMPTS * 4)]
    lines[3]["options"] = {"max_new_tokens": 90}  # ends long after those behind it
    write_lines(tmp_path / "in.jsonl", lines)
    options = ["--batch", "in.jsonl", "--seed", "3", "--max-new-tokens", "30", "--num-return-sequences", "2"]
    whole = onnxgpt_command("generate", "--out", "whole.jsonl", *options)
    assert whole.returncode == 0

    out = tmp_path / "out.jsonl"
    ends = 0
    for wanted in (5, 20, 31):  # three interruptions
        with subprocess.Popen(
            [*COMMAND, "generate", "--out", "out.jsonl", *options, "--batch-size", "3", "--provider", "cpu"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # A test run in the background of a shell ignores the signal, and its children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < wanted):
                time.sleep(0.002)
            process.send_signal(how)
            assert process.stderr is not None
            complaint = process.stderr.read()
        ends += process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
        if how == signal.SIGINT and process.returncode:
            assert complaint == b"interrupted: the same command goes on from the results in out.jsonl\n"
    assert ends  # at least one of them came in time
    done = onnxgpt_command("generate", "--out", "out.jsonl", *options)

    assert done.returncode == 0, done.stderr
    assert [(record["line"], record["sequence_index"]) for record in records(out)] == [
        (line, sequence) for line in range(1, 25) for sequence in range(2)
    ]
    again = onnxgpt_command("generate", "--out", "out.jsonl", *options)
    assert again.stderr == "0 lines of in.jsonl done, 24 were done before\n"
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("cut", [1, 20, 200, 500])
def test_a_torn_end_is_done_again(cut: int, onnxgpt_command: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "in.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    command = ["generate", "--batch", "in.jsonl", "--out", "out.jsonl", "--seed", "3", "--max-new-tokens", "6"]
    command += ["--num-return-sequences", "3"]
    assert onnxgpt_command(*command).returncode == 0
    whole = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "out.jsonl").write_bytes(whole[:-cut])

    done = onnxgpt_command(*command)
    assert done.stderr.startswith("1 line of in.jsonl done, 5 were done before" if cut < 500 else "")
    assert (tmp_path / "out.jsonl").read_bytes() == whole


def test_a_drawn_seed_is_told_and_kept_when_going_on(onnxgpt_command: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "in.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    command = ["generate", "--batch", "in.jsonl", "--out", "out.jsonl", "--max-new-tokens", "6"]
    done = onnxgpt_command(*command)
    whole = (tmp_path / "out.jsonl").read_bytes()
    seed = records(tmp_path / "out.jsonl")[0]["seed"]
    assert f"seed {seed} " in done.stderr

    (tmp_path / "out.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    assert onnxgpt_command(*command).returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--max-new-tokens", "5"], "has results of another input, model or other options (its line 1)"),
        (["--seed", "4"], "has results of another input, model or other options (its line 1)"),
        (["--batch", "other.jsonl"], "has results of another input, model or other options (its line 2)"),
        (["--out", "notes.txt"], "its line 1 is no result of generate --batch"),
        (["--out", "in.jsonl"], "in.jsonl is the file of prompts itself"),
        (["--out", "missing/out.jsonl"], "can't be written"),
        (["--batch", "missing.jsonl"], "missing.jsonl can't be read"),
        (["--num-beams", "2", "--batch-size", "3"], "batch_size has no effect with num_beams"),
        (["--top-k", "-1"], "top_k is -1"),
        (["--json"], "--json has no effect with --batch"),
        (["hello"], "PROMPT has no effect with --batch"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    change: list[str], message: str, onnxgpt_command: Run, tmp_path: Path
) -> None:
    write_lines(tmp_path / "in.jsonl", [{"prompt": PROMPTS[0]}, {"prompt": PROMPTS[1]}])
    write_lines(tmp_path / "other.jsonl", [{"prompt": PROMPTS[0]}, {"prompt": PROMPTS[2]}])
    (tmp_path / "notes.txt").write_bytes(b"keep me")
    command = ["generate", "--batch", "in.jsonl", "--out", "out.jsonl", "--seed", "3", "--max-new-tokens", "2"]
    if "--num-beams" not in change:
        assert onnxgpt_command(*command).returncode == 0
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = onnxgpt_command(*command, *change)

    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files

    if "another input" in message:
        forced = onnxgpt_command(*command, *change, "--force")
        assert forced.returncode == 0
        assert (tmp_path / "out.jsonl").read_bytes() != files["out.jsonl"]


@pytest.mark.parametrize("given", [["--out", "x"], ["--batch-size", "2"], ["--force"]])
def test_options_of_batches_need_one(given: list[str], onnxgpt_command: Run) -> None:
    done = onnxgpt_command("generate", "hello", *given)

    assert done.returncode == 2
    assert f"{given[0]} has no effect with a single prompt; give --batch" in done.stderr


def test_a_batch_needs_an_output(onnxgpt_command: Run) -> None:
    assert "no --out" in onnxgpt_command("generate", "--batch", "-").stderr


@posix_only
def test_a_full_disk_leaves_what_was_done(onnxgpt_command: Run, tmp_path: Path) -> None:
    import resource

    write_lines(tmp_path / "in.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    command = ["generate", "--batch", "in.jsonl", "--out", "out.jsonl", "--seed", "3", "--max-new-tokens", "20"]
    done = subprocess.run(
        [*COMMAND, *command, "--provider", "cpu"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )

    assert done.returncode == 1
    assert "can't be written (File too large)" in done.stderr
    assert done.stderr.count("\n") == 1
    half = (tmp_path / "out.jsonl").read_bytes()
    assert half.endswith(b"\n")
    assert 1 <= half.count(b"\n") < 6
    assert onnxgpt_command(*command).returncode == 0
    whole = (tmp_path / "out.jsonl").read_bytes()
    assert all(line in whole.splitlines() for line in half.splitlines())
    assert len(records(tmp_path / "out.jsonl")) == 6


@posix_only
def test_two_runs_do_not_write_one_file(onnxgpt_command: Run, tmp_path: Path) -> None:
    import fcntl

    write_lines(tmp_path / "in.jsonl", [{"prompt": "x"}])
    with open(tmp_path / "out.jsonl", "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = onnxgpt_command("generate", "--batch", "in.jsonl", "--out", "out.jsonl")

    assert done.returncode == 1
    assert "is being written by another process" in done.stderr


def test_prompts_come_through_a_pipe_with_beams_and_token_ids(
    onnxgpt_command: Run, tmp_path: Path, full_bundle: Bundle, model: Model
) -> None:
    beams = {"num_beams": 3, "do_sample": False, "num_return_sequences": 2, "max_new_tokens": 8}
    ids = model.tokenizer.encode(PROMPTS[3])
    stdin = json.dumps({"prompt": ids, "options": beams}) + "\r\n" + json.dumps({"prompt": PROMPTS[0]})
    options = ["--max-length", "12", "--logprobs", "2", "--no-do-sample", "--model", str(full_bundle.directory)]
    done = onnxgpt_command("generate", "--batch", "-", "--out", os.devnull, *options, stdin=stdin)
    assert done.returncode == 1
    assert "expected a plain file" in done.stderr
    done = onnxgpt_command("generate", "--batch", "-", "--out", "out.jsonl", *options, stdin=stdin)

    assert done.returncode == 0, done.stderr
    *searched, plain = records(tmp_path / "out.jsonl")
    expected = model.generate(ids, logprobs=2, **beams)
    assert [record["text"] for record in searched] == [each.text for each in expected]
    assert [record["score"] for record in searched] == pytest.approx([each.score for each in expected])
    assert plain["prompt_tokens"] + plain["completion_tokens"] == 12
    assert [len(ranking) for ranking in plain["top_logprobs"]] == [2] * plain["completion_tokens"]


def test_a_line_that_forbids_every_token_fails_alone(onnxgpt_command: Run, tmp_path: Path) -> None:
    # "x" repeats within its prompt: after the bigram ban nothing may follow but what is banned, too.
    everything = list(range(4096))
    lines = [{"prompt": prompt} for prompt in PROMPTS[:3]]
    lines.append({"prompt": "x", "options": {"suppress_tokens": everything}})  # type: ignore[dict-item]
    write_lines(tmp_path / "in.jsonl", lines)
    command = ["generate", "--batch", "in.jsonl", "--out", "out.jsonl", "--seed", "3", "--max-new-tokens", "6"]
    done = onnxgpt_command(*command)

    assert done.returncode == 1
    assert [("error" in record) for record in records(tmp_path / "out.jsonl")] == [False, False, False, True]
    assert "line 4 of in.jsonl: the options forbid every token" in done.stderr


@posix_only
def test_a_terminal_shows_the_progress(tmp_path: Path) -> None:
    import pty

    write_lines(tmp_path / "in.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    controller, terminal = pty.openpty()
    command = ["generate", "--batch", "in.jsonl", "--out", "out.jsonl", "--seed", "3", "--max-new-tokens", "20"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([*COMMAND, *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=terminal, env=environment):
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # Linux: the other end has closed
            while data := os.read(controller, 4096):
                shown += data
    os.close(controller)

    assert b"6 of 6 lines, " in shown
    assert b"6 lines of in.jsonl done" in shown
