"""`onnxgpt classify`: labels and examples from options and from files, probabilities for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import onnxgpt
from onnxgpt.runtime.classification import Classification, Classifier

from .conftest import Run

TEXT = "The wolf had eaten the seven little kids."
EXAMPLES = [
    {"text": "The king's daughter danced.", "label": "happy"},
    {"text": "The mother wept.", "label": "sad"},
    {"text": "They lived happily ever after.", "label": "happy"},
]


def expected(text: str, labels: Any, **task: Any) -> Classification:
    with Classifier(onnxgpt.load("fairytale"), labels, **task) as classifier:
        return classifier.classify(text)


def test_labels_and_probabilities_come_the_likeliest_first(onnxgpt_command: Run) -> None:
    done = onnxgpt_command("classify", TEXT, "--label", "happy", "--label", "sad=very sad", "--scoring", "sum")
    found = expected(TEXT, {"happy": "happy", "sad": "very sad"}, scoring="sum")

    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0][0] == found.label
    assert {name: float(value) for name, value in rows} == pytest.approx(found.probabilities, abs=1e-4)


@pytest.mark.parametrize("form", ["object", "lines", "list", "one line"])
def test_a_task_comes_from_a_file(form: str, onnxgpt_command: Run, tmp_path: Path) -> None:
    examples = [(example["text"], example["label"]) for example in EXAMPLES]
    task: dict[str, Any] = {"examples": examples}
    given = []
    if form == "object":
        looks = {"template": "{text}\n= {label}.", "instruction": "Moods:", "separator": "\n", "scoring": "calibrated"}
        words = {"happy": "glad", "sad": "sorrowful"}
        task |= looks
        (tmp_path / "task").write_text(json.dumps({"labels": words, "examples": EXAMPLES, **looks}), encoding="utf-8")
        found = expected(TEXT, words, **task)
    elif form == "one line":
        (tmp_path / "task").write_text(json.dumps(EXAMPLES[0]) + "\n", encoding="utf-8")
        given = ["--label", "happy", "--label", "sad", "--template", "{text} {label}", "--instruction", "Moods"]
        found = expected(TEXT, ["happy", "sad"], examples=examples[:1], template="{text} {label}", instruction="Moods")
    else:
        lines = "".join(json.dumps(example) + "\n" for example in EXAMPLES)
        (tmp_path / "task").write_text(lines if form == "lines" else json.dumps(EXAMPLES), encoding="utf-8")
        found = expected(TEXT, ["happy", "sad"], **task)
    done = onnxgpt_command("classify", "--task", "task", "--json", *given, stdin=TEXT + "\n")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["text"], told["label"]) == (TEXT, found.label)
    for name in ("probabilities", "scores"):
        assert told[name] == pytest.approx(getattr(found, name))


def test_each_line_is_a_text_of_its_own(onnxgpt_command: Run, tmp_path: Path) -> None:
    texts = [TEXT, "The sun shone.", "x"]
    (tmp_path / "texts").write_bytes("\r\n".join(texts).encode() + b"\r\n")
    given = ["--label", "happy", "--label", "sad", "--each-line"]
    plain = onnxgpt_command("classify", "--file", "texts", *given)
    found = onnxgpt_command("classify", "--json", *given, stdin="\n".join(texts))

    told = [json.loads(line) for line in found.stdout.splitlines()]
    assert [each["text"] for each in told] == texts
    assert [each["label"] for each in told] == [expected(text, ["happy", "sad"]).label for text in texts]
    assert plain.stdout == "".join(f"{each['label']}\t{each['probabilities'][each['label']]:.4f}\n" for each in told)
    long = onnxgpt_command("classify", *given, stdin="x\n" + "x " * 600)
    assert long.returncode == 2
    assert "error: line 2: candidate 0 and the prompt have" in long.stderr


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        (None, [], "no labels: expected two or more"),
        (None, ["--label", "a"], "expected two or more that differ"),
        (None, ["--label", "a", "--label", "a"], "label 'a' is given twice"),
        (None, ["--label", "a", "--label", "b", "--template", "{text}"], "expected {text} once and"),
        (None, ["--label", "a", "--label", "b", "--each-line"], "--each-line has no effect on TEXT"),
        ("missing", [], "can't be read"),
        (b"\xff", [], "task is not UTF-8"),
        ("{}\nnot json", [], "task: line 2 is not JSON"),
        ("7", [], "task: int instead of a task"),
        ('{"lables": []}', [], "unknown key 'lables'"),
        ('{"labels": ["a", 3]}', [], "labels are no list of texts"),
        ('{"labels": ["a", "b"], "template": 3}', [], "template is 3: expected a text"),
        ('{"text": "x", "labels": "a"}', [], "example 1 is"),
        ('{"labels": ["a", "b"], "examples": [{"text": "x", "label": "c"}]}', [], "an example has the label 'c'"),
        ('{"labels": ["a", "b"], "scoring": "best"}', [], "scoring is 'best'"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused_in_one_line(
    task: str | bytes | None, given: list[str], message: str, onnxgpt_command: Run, tmp_path: Path
) -> None:
    if task != "missing" and task is not None:
        (tmp_path / "task").write_bytes(task if isinstance(task, bytes) else task.encode())
    done = onnxgpt_command("classify", TEXT, *given, *(["--task", "task"] if task is not None else []))

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
