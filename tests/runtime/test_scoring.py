"""Scores of candidates and of long texts, with transformers and with scores of whole texts as the judges."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import onnxgpt
from onnxgpt.runtime.errors import OptionError, PromptError
from onnxgpt.runtime.manifest import GraphRecord
from onnxgpt.runtime.model import Model
from onnxgpt.runtime.scoring import CandidateScorer
from onnxgpt.runtime.session import Session
from onnxgpt.runtime.settings import SessionSettings

CHECKPOINT = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint"
PROMPT = "Once upon a time there was a king who had a"
CANDIDATES = [" daughter", " wolf", " daughter, and she was so beautiful that the sun himself wondered", "n"]
TALE = "The king's daughter went into the forest, and there she met an old woman who asked her for bread. " * 50


@pytest.fixture(params=["shared buffer", "separate past and present"])
def model(request, fairytale):
    if request.param == "shared buffer":
        return fairytale
    bundle = fairytale.bundle
    return Model(
        bundle,
        Session.open(bundle.graph_path, SessionSettings(threads=2), record=GraphRecord(shares_cache_buffer=False)),
        fairytale.tokenizer,
    )


def counted(model, monkeypatch):
    """The numbers of tokens that are read from now on, step by step."""
    read = []
    step = model.session.step
    monkeypatch.setattr(
        model.session, "step", lambda ids, cache, keep=1: read.append(ids.size) or step(ids, cache, keep)
    )
    return read


def test_candidates_score_as_in_the_whole_text(model, monkeypatch):
    whole = [model.score(PROMPT + candidate) for candidate in CANDIDATES]
    read = counted(model, monkeypatch)
    scores = model.score(PROMPT, CANDIDATES)
    for score, candidate, text in zip(scores, CANDIDATES, whole, strict=True):
        assert score.candidate == candidate
        assert score.token_ids == text.token_ids[-len(score.token_ids) :]
        np.testing.assert_allclose(score.logprobs, text.logprobs[-len(score.logprobs) :], atol=1e-4)
        assert score.total == pytest.approx(sum(text.logprobs[-len(score.logprobs) :]), abs=1e-3)
        assert score.mean == pytest.approx(score.total / len(score.token_ids))
    # All from the same place on: what the prompt and every joined text begin with in common.
    starts = {len(text.token_ids) - len(score.token_ids) for score, text in zip(scores, whole, strict=True)}
    assert len(starts) == 1
    (start,) = starts
    assert read == [start, *(len(score.token_ids) - 1 for score in scores if len(score.token_ids) > 1)]


def test_a_prompt_s_last_token_may_belong_to_the_candidates(fairytale):
    prompt, candidates = "There lived a kin", ["g and a queen", "dly old man"]
    alone = fairytale.tokenizer.encode(prompt)
    scores = fairytale.score(prompt, candidates)
    texts = [fairytale.tokenizer.encode(prompt + candidate) for candidate in candidates]
    assert any(text[: len(alone)] != alone for text in texts)
    for score, text in zip(scores, texts, strict=True):
        assert score.token_ids == tuple(text[-len(score.token_ids) :])
    assert len({len(text) - len(score.token_ids) for text, score in zip(texts, scores, strict=True)}) == 1


def test_candidates_of_token_ids(fairytale):
    ids = fairytale.tokenizer.encode(PROMPT)
    one, two = fairytale.score(ids, [[5, 6, 7], np.array([9])])
    np.testing.assert_allclose(one.logprobs, fairytale.score([*ids, 5, 6, 7]).logprobs[-3:], atol=1e-4)
    assert two.logprobs == pytest.approx(fairytale.score([*ids, 9]).logprobs[-1:], abs=1e-4)


def test_prompts_in_a_row_are_read_where_they_differ(fairytale, monkeypatch):
    head = fairytale.tokenizer.encode(TALE[:900])
    with fairytale.candidate_scorer() as scorer:
        first = scorer.score([*head, 5, 6], [[7, 8], [9]])
        read = counted(fairytale, monkeypatch)
        second = scorer.score([*head, 6, 6], [[7, 8], [9]])
        again = scorer.score([*head, 6, 6], [[7, 8], [9]])
        assert read == [2, 1, 1, 1]
    for ours, theirs in zip(again, second, strict=True):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-5)  # other numbers of tokens at once
    for scores, prompt in ((first, [*head, 5, 6]), (second, [*head, 6, 6])):
        np.testing.assert_allclose(scores[0].logprobs, fairytale.score([*prompt, 7, 8]).logprobs[-2:], atol=1e-4)


def test_graphs_that_read_in_one_piece_score_the_same(fairytale):
    with CandidateScorer(fairytale.session, fairytale._encoder, None) as scorer:
        for prompt in (PROMPT, TALE[:300]):
            for ours, theirs in zip(scorer.score(prompt, CANDIDATES), fairytale.score(prompt, CANDIDATES), strict=True):
                np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


@pytest.mark.parametrize(
    ("prompt", "candidates", "message"),
    [
        (PROMPT, [], r"candidates are \[\]: expected a list"),
        (PROMPT, " daughter", "expected a list of texts"),
        (PROMPT, [" wolf", ""], "candidate 1 is empty"),
        (PROMPT, [[5]], "expected a text, as the prompt is"),
        ([5], [" wolf"], "expected token ids, as the prompt is"),
        ([5], [[4096]], "token id 4096 is not in the vocabulary"),
        ([5] * 510, [[5], [5, 5, 5]], "candidate 1 and the prompt have 513 tokens and the context 512"),
        ("", [" wolf"], "the prompt is empty"),
        ("k", ["ing"], "the prompt's first token becomes another one"),
    ],
)
def test_bad_candidates_are_refused(fairytale, prompt, candidates, message):
    with pytest.raises(PromptError, match=message):
        fairytale.score(prompt, candidates)


def windows_by_definition(judge, ids, window, stride):
    """Log-probabilities as the documentation of transformers computes them for texts longer than the context."""
    logprobs, scored = [], 1
    for start in range(0, len(ids), stride):
        stop = min(start + window, len(ids))
        with torch.no_grad():
            rows = torch.log_softmax(judge(torch.tensor([ids[start:stop]])).logits[0], -1)
        logprobs += [float(rows[place - start - 1, ids[place]]) for place in range(scored, stop)]
        scored = stop
        if stop == len(ids):
            return logprobs


@pytest.mark.parametrize(("window", "stride", "tokens"), [(None, 256, 900), (64, 63, 200), (64, 1, 70), (100, 40, 60)])
def test_long_texts_are_scored_in_windows(model, window, stride, tokens):
    judge = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    ids = model.tokenizer.encode(TALE)[:tokens]
    score = model.score(ids, window=window, stride=stride)
    expected = windows_by_definition(judge, ids, window or 512, stride)
    assert len(score.logprobs) == tokens - 1
    np.testing.assert_allclose(score.logprobs, expected, atol=1e-3)
    assert score.perplexity == pytest.approx(np.exp(-np.mean(expected)), rel=1e-3)


def test_graphs_that_read_in_one_piece_score_windows_the_same(fairytale, monkeypatch):
    ids = fairytale.tokenizer.encode(TALE)[:600]
    expected = fairytale.score(ids, stride=200)
    monkeypatch.setattr(Model, "_chunk", None)
    np.testing.assert_allclose(fairytale.score(ids, stride=200).logprobs, expected.logprobs, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 100}, "window has no effect without a stride"),
        ({"window": 513, "stride": 5}, "window is 513: expected 2 to 512"),
        ({"window": 1, "stride": 1}, "window is 1"),
        ({"window": 100, "stride": 100}, "stride is 100: expected 1 to 99"),
        ({"stride": 0}, "stride is 0: expected 1 to 511"),
        ({"stride": 5, "candidates": ["x"]}, "stride has no effect with candidates"),
    ],
)
def test_windows_that_make_no_sense_are_refused(fairytale, options, message):
    with pytest.raises(OptionError, match=message):
        fairytale.score(PROMPT, **options)


def test_a_text_over_the_context_needs_a_stride(fairytale):
    with pytest.raises(PromptError, match=r"more than the context's 512: shorten the text, or give a stride"):
        fairytale.score(TALE)


def test_scoring_frees_its_memory():
    model = onnxgpt.load("fairytale", memory_limit="100MB")
    weights = model.session.budget.used
    model.score(TALE, stride=256)
    model.score(PROMPT, CANDIDATES)
    with pytest.raises(PromptError):
        model.score(PROMPT, [""])
    assert model.session.budget.used == weights
