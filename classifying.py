"""What `onnxgpt classify` reads: a task's labels, examples and looks, out of a file and of options."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .runtime.classification import Classifier
from .runtime.errors import OptionError
from .runtime.model import Model


@dataclass(frozen=True)
class Task:
    """What texts are to be told apart by. What is None is as `Classifier` has it."""

    labels: Mapping[str, str] = field(default_factory=dict)  # and the words that stand for them
    examples: tuple[tuple[str, str], ...] = ()  # texts and their labels
    template: str | None = None
    instruction: str | None = None
    separator: str | None = None
    scoring: str | None = None

    @classmethod
    def read(cls, file: str) -> Task:
        """Read a task from a file: a JSON object, a JSON list of examples, or examples in JSON Lines.

        Raises:
            OptionError: it can't be read, or is no task.
        """
        try:
            text = Path(file).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise OptionError(f"{file} can't be read ({error.strerror}): expected a task in JSON") from error
        except UnicodeDecodeError as error:
            raise OptionError(f"{file} is not UTF-8 ({error.reason} at byte {error.start})") from error
        try:
            return _task(_parse(text))
        except OptionError as error:
            raise OptionError(f"{file}: {error}") from error

    def updated(self, labels: Sequence[str], **others: str | None) -> Task:
        """The task with what is given instead; a label is `NAME`, or `NAME=WORDS`."""
        names: dict[str, str] = {}
        for label in labels:
            name, _, words = label.partition("=")
            if name in names:
                raise OptionError(f"label {name!r} is given twice: expected labels that differ")
            names[name] = words or name
        given: dict[str, Any] = {name: value for name, value in others.items() if value is not None}
        return replace(self, labels=names or self.labels, **given)

    def classifier(self, model: Model) -> Classifier:
        """What does the task. Without labels, those of the examples are taken.

        Raises:
            OptionError: the task makes no sense.
        """
        labels = self.labels or {label: label for _, label in self.examples}
        if not labels:
            raise OptionError(
                "no labels: expected two or more; give --label twice, or a --task with labels or examples"
            )
        told = {item.name: getattr(self, item.name) for item in fields(self)[2:]}
        return Classifier(
            model,
            labels,
            examples=self.examples,
            **{name: value for name, value in told.items() if value is not None},
        )


def _parse(text: str) -> Any:
    """The JSON of a text; JSON Lines are a list."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return list(_json_lines(text))


def _json_lines(text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise OptionError(
                    f"line {number} is not JSON ({error}): expected an example or a whole task"
                ) from error


def _task(found: Any) -> Task:
    if isinstance(found, dict) and "text" in found:
        found = [found]  # JSON Lines of one line
    if isinstance(found, list):
        found = {"examples": found}
    if not isinstance(found, dict):
        raise OptionError(f"{type(found).__name__} instead of a task: expected an object, or a list of examples")
    names = [item.name for item in fields(Task)]
    if unknown := [name for name in found if name not in names]:
        raise OptionError(f"unknown key {unknown[0]!r}: expected {', '.join(names)}")
    for name in names[2:]:
        if not isinstance(found.get(name), (str, type(None))):
            raise OptionError(f"{name} is {found[name]!r}: expected a text")
    examples = found.get("examples", [])
    if not isinstance(examples, list):
        raise OptionError(f"examples are {examples!r}: expected a list of objects with text and label")
    return Task(
        _labels(found.get("labels", [])),
        tuple(_example(number, example) for number, example in enumerate(examples, start=1)),
        **{name: found.get(name) for name in names[2:]},
    )


def _labels(found: Any) -> dict[str, str]:
    if isinstance(found, list) and len({str(label) for label in found}) == len(found):
        found = {label: label for label in found if isinstance(label, str)} if _are_texts(found) else None
    if not isinstance(found, dict) or not _are_texts(found.values()):
        raise OptionError("labels are no list of texts that differ: expected that, or an object of labels and words")
    return found


def _are_texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _example(number: int, found: Any) -> tuple[str, str]:
    if not isinstance(found, dict) or set(found) != {"text", "label"} or not _are_texts(found.values()):
        raise OptionError(f'example {number} is {found!r}: expected {{"text": …, "label": …}}')
    return found["text"], found["label"]
