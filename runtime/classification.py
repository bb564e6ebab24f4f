"""Classification: labels as continuations of a prompt, chosen by how likely the model finds them.

Nothing is trained. A prompt shows the task (with examples, or without), and each label is scored behind it. Which label
a model likes also depends on how common and how long its text is; the ways of scoring differ in what they do about it:

- `sum`: a label's log-probability, so that the probabilities are the model's own, among the labels.
- `mean`: its mean over the label's tokens, so that long labels are not punished for their length.
- `calibrated`: its log-probability less that behind the same prompt with texts that say nothing, so that labels are not
  preferred for being common (Zhao et al. 2021, "Calibrate Before Use"; for labels of several tokens, Holtzman et al.
  2021, "Surface Form Competition").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import OptionError
from .scoring import CandidateScore

if TYPE_CHECKING:
    from .model import Model

DEFAULT_TEMPLATE = "Text: {text}\nLabel: {label}"
SCORINGS = ("sum", "mean", "calibrated")
CONTENT_FREE = ("N/A", "[MASK]", "")  # as in Zhao et al. 2021


@dataclass(frozen=True)
class Classification:
    """What a text was found to be. Labels are in the order in which the classifier was given them."""

    label: str  # the likeliest
    probabilities: dict[str, float]  # of each label; they sum to 1
    scores: dict[str, float]  # what the probabilities are the softmax of: see the module's docstring
    logprobs: dict[str, tuple[float, ...]]  # of each label's tokens, as the model finds them


class Classifier:
    """Gives texts one of some labels, by a model, labels and maybe examples.

    What is the same in front of all texts is read once. Owns a cache: one thread uses it, `close` frees it. Also a
    context manager.

    >>> import onnxgpt
    >>> model = onnxgpt.load("fairytale")
    >>> with Classifier(model, ["king", "wolf"], template="{text} said the {label}") as classifier:
    ...     result = classifier.classify("'What big teeth you have!'")
    >>> round(sum(result.probabilities.values()), 6)
    1.0
    """

    def __init__(
        self,
        model: Model,
        labels: Sequence[str] | Mapping[str, str],
        *,
        examples: Iterable[tuple[str, str]] = (),
        template: str = DEFAULT_TEMPLATE,
        instruction: str = "",
        separator: str = "\n\n",
        scoring: str = "mean",
        content_free: Sequence[str] = CONTENT_FREE,
    ):
        """Prepare a task.

        Args:
            model: what reads.
            labels: two or more; or of each label the words that stand for it in the prompt.
            examples: texts and their labels, shown in front of each text.
            template: how a text and its label look; {text} comes before {label}. What comes behind {label} is shown
                behind the examples only.
            instruction: what comes first of all.
            separator: between the instruction, the examples and the text.
            scoring: `sum`, `mean` or `calibrated`; the module's docstring tells what they do.
            content_free: texts that say nothing, for `calibrated`.

        Raises:
            OptionError: labels, examples, template or scoring make no sense.
        """
        self._words = _checked_labels(labels)
        self._before, self._after = _split(template)
        if scoring not in SCORINGS:
            raise OptionError(f"scoring is {scoring!r}: expected one of {', '.join(SCORINGS)}")
        if scoring == "calibrated" and not content_free:
            raise OptionError("content_free is empty: expected texts that say nothing, to calibrate by")
        self._scoring = scoring
        parts = [instruction] if instruction else []
        for text, label in examples:
            if label not in self._words:
                raise OptionError(f"an example has the label {label!r}: expected one of {', '.join(self._words)}")
            parts.append(self._prompt_part(text) + self._words[label] + self._after)
        self._head = "".join(part + separator for part in parts)
        self._scorer = model.candidate_scorer()
        self._bias: NDArray[np.float64] | None = None
        if scoring == "calibrated":
            totals = [[score.total for score in self._score(text)] for text in content_free]
            self._bias = np.logaddexp.reduce(totals, axis=0) - math.log(len(totals))  # of the mean probability

    def prompt(self, text: str) -> str:
        """What the model reads before the label."""
        return self._head + self._prompt_part(text)

    def classify(self, text: str) -> Classification:
        """Give a text its label.

        Raises:
            PromptError: the prompt with the text does not fit the context.
        """
        found = self._score(text)
        scores = np.array([score.mean if self._scoring == "mean" else score.total for score in found])
        if self._bias is not None:
            scores = scores - self._bias
        probabilities = np.exp(scores - np.logaddexp.reduce(scores))
        names = list(self._words)
        return Classification(
            label=names[int(scores.argmax())],
            probabilities=dict(zip(names, probabilities.tolist(), strict=True)),
            scores=dict(zip(names, scores.tolist(), strict=True)),
            logprobs={name: score.logprobs for name, score in zip(names, found, strict=True)},
        )

    def close(self) -> None:
        """Free the cache. May be called twice."""
        self._scorer.close()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prompt_part(self, text: str) -> str:
        return self._before.replace("{text}", text)

    def _score(self, text: str) -> list[CandidateScore]:
        return self._scorer.score(self.prompt(text), list(self._words.values()))


def _checked_labels(labels: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Of each label the words that stand for it."""
    if isinstance(labels, str):
        raise OptionError(f"labels are {labels!r}: expected a list of two or more")
    words = dict(labels) if isinstance(labels, Mapping) else {label: label for label in labels}
    if len(words) < 2 or len(words) < len(labels) or len(set(words.values())) < len(words):
        raise OptionError(f"labels are {list(labels)}: expected two or more that differ, in words that differ")
    if not all(isinstance(word, str) and word for word in words.values()):
        raise OptionError(f"labels are {list(labels)}: expected texts, none of them empty")
    return words


def _split(template: str) -> tuple[str, str]:
    """What comes before the label, and what comes behind it."""
    before, label, after = template.partition("{label}")
    if not label or before.count("{text}") != 1 or "{label}" in after or "{text}" in after:
        raise OptionError(f"template is {template!r}: expected {{text}} once and, behind it, {{label}} once")
    return before, after
