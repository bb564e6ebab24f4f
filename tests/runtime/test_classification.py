"""Classification, each probability worked out from scores of whole texts."""

import numpy as np
import pytest

from onnxgpt.runtime.classification import Classifier
from onnxgpt.runtime.errors import OptionError, PromptError

LABELS = ["king", "wolf", "old woman in the forest"]
TEMPLATE = "{text} Then came the {label}."
EXAMPLES = [("He sat upon his throne.", "king"), ("He had big teeth.", "wolf")]
TEXT = "There was a knock at the door."


def total(model, prompt, label):
    """Log-probabilities of a label's tokens behind a prompt, from the score of the whole."""
    whole, alone = model.score(f"{prompt} {label}"), model.tokenizer.encode(prompt)
    assert list(whole.token_ids[: len(alone)]) == alone
    return np.array(whole.logprobs[len(alone) - 1 :])


def softmax(scores):
    powers = np.exp(scores - np.max(scores))
    return powers / powers.sum()


@pytest.mark.parametrize("scoring", ["sum", "mean", "calibrated"])
@pytest.mark.parametrize("examples", [[], EXAMPLES])
def test_probabilities_are_those_of_the_definition(fairytale, scoring, examples):
    head = "Tales.\n\n" + "".join(f"{text} Then came the {label}.\n\n" for text, label in examples)
    found = [total(fairytale, f"{head}{TEXT} Then came the", label) for label in LABELS]
    scores = np.array([label.mean() if scoring == "mean" else label.sum() for label in found])
    if scoring == "calibrated":
        empty = [
            [total(fairytale, f"{head}{text} Then came the", label).sum() for label in LABELS] for text in ("N/A", "It")
        ]
        scores -= np.log(np.exp(empty).mean(axis=0))
    with Classifier(
        fairytale, LABELS, examples=examples, template=TEMPLATE, instruction="Tales.", scoring=scoring,
        content_free=["N/A", "It"],
    ) as classifier:  # fmt: skip
        assert classifier.prompt(TEXT) == f"{head}{TEXT} Then came the "
        for _ in range(2):  # the second time the prompt is there already
            result = classifier.classify(TEXT)
            assert list(result.probabilities) == LABELS
            np.testing.assert_allclose(list(result.scores.values()), scores, atol=1e-3)
            np.testing.assert_allclose(list(result.probabilities.values()), softmax(scores), atol=1e-3)
            assert result.label == LABELS[int(np.argmax(scores))]
            assert sum(result.probabilities.values()) == pytest.approx(1)
            for name, expected in zip(LABELS, found, strict=True):
                np.testing.assert_allclose(result.logprobs[name], expected, atol=1e-3)


def test_examples_are_read_once(fairytale, monkeypatch):
    with Classifier(fairytale, LABELS, examples=EXAMPLES * 4, template=TEMPLATE) as classifier:
        classifier.classify(TEXT)
        read = []
        step = fairytale.session.step
        monkeypatch.setattr(
            fairytale.session, "step", lambda ids, cache, keep=1: read.append(ids.size) or step(ids, cache, keep)
        )
        classifier.classify("A hen cackled.")
    assert sum(read) < 25 < len(fairytale.tokenizer.encode(classifier.prompt(TEXT)))


def test_words_stand_for_labels(fairytale):
    with Classifier(
        fairytale, {"0": "king", "1": "wolf"}, examples=[("He had big teeth.", "1")], template=TEMPLATE
    ) as it:
        assert it.prompt("x") == "He had big teeth. Then came the wolf.\n\nx Then came the "
        assert set(it.classify(TEXT).probabilities) == {"0", "1"}


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["king"], {}, r"labels are \['king'\]: expected two or more"),
        ("king", {}, "labels are 'king'"),
        (["king", "king"], {}, "expected two or more that differ"),
        ({"a": "king", "b": "king"}, {}, "in words that differ"),
        (["king", ""], {}, "none of them empty"),
        (LABELS, {"examples": [("x", "fox")]}, "an example has the label 'fox': expected one of king, wolf"),
        (LABELS, {"template": "{text}"}, "template is '{text}': expected {text} once"),
        (LABELS, {"template": "{label} {text}"}, "expected {text} once and, behind it, {label} once"),
        (LABELS, {"template": "{text} {text} {label}"}, "expected {text} once"),
        (LABELS, {"scoring": "best"}, "scoring is 'best': expected one of sum, mean, calibrated"),
        (LABELS, {"scoring": "calibrated", "content_free": []}, "content_free is empty"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(fairytale, labels, options, message):
    with pytest.raises(OptionError, match=message):
        Classifier(fairytale, labels, **options)


def test_texts_that_do_not_fit_are_refused(fairytale):
    with Classifier(fairytale, LABELS) as classifier, pytest.raises(PromptError, match="shorten the prompt"):
        classifier.classify("word " * 600)


def test_braces_in_texts_are_just_text(fairytale):
    with Classifier(fairytale, LABELS, template=TEMPLATE) as classifier:
        assert classifier.prompt("{label} {text}") == "{label} {text} Then came the "
