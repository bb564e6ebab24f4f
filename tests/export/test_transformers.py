"""The whole way, from a checkpoint that transformers wrote to the runtime's logits, judged by transformers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from onnxgpt.export import export_bundle
from onnxgpt.models.catalog import pull
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.model import Model

from ..models.conftest import read_by_transformers

TOLERANCE = 1e-3  # in log-probability
PROMPT, NEW = 40, 128  # past + new crosses the cache's growth at 64 and 128 tokens
CONTEXT = 192

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2, erf gelu, wide mlp, untied": (
        "gpt2",
        {"activation_function": "gelu", "n_inner": 80, "tie_word_embeddings": False},
    ),
    "gpt2, one head of 32, three layers": ("gpt2", {"n_head": 1, "n_layer": 3, "activation_function": "relu"}),
    "gpt2, unscaled attention": ("gpt2", {"scale_attn_weights": False}),
    "llama, grouped heads": ("llama", {}),
    "llama, heads of 16, tied": ("llama", {"head_dim": 16, "tie_word_embeddings": True, "rope_theta": 500.0}),
    "llama, one key head, biases": (
        "llama",
        {"num_key_value_heads": 1, "head_dim": 16, "attention_bias": True, "mlp_bias": True},
    ),
    "llama, every head its own keys, gelu": (
        "llama",
        {"num_key_value_heads": 4, "head_dim": 32, "hidden_act": "gelu_pytorch_tanh"},
    ),
    "llama, heads without a fused kernel": ("llama", {"head_dim": 10, "num_key_value_heads": 4}),
}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return torch.log_softmax(torch.from_numpy(logits).double(), dim=-1).numpy()


def judge(model: Any, rows: list[list[int]]) -> list[np.ndarray]:
    with torch.no_grad():
        return [model(torch.tensor([row])).logits[0].numpy() for row in rows]


STANDARD_CASES = ("gpt2", "llama, one key head, biases")


@pytest.mark.parametrize(
    ("case", "operators"), [*((case, "fused") for case in CASES), *((case, "standard") for case in STANDARD_CASES)]
)
def test_a_bundle_gives_the_logits_and_the_text_of_transformers(
    save_transformers: Callable[..., tuple[Any, Path]], tmp_path: Path, case: str, operators: str
) -> None:
    family, changes = CASES[case]
    judge_model, directory = save_transformers(family, **changes)
    bundle = export_bundle(directory, tmp_path / "bundle", operators=operators)
    model = Model.load(bundle.directory)

    ids = np.random.default_rng(1).integers(1, 300, CONTEXT)
    (expected,) = judge(judge_model, [ids.tolist()])
    found = model.logits(ids)
    assert np.abs(log_softmax(found) - log_softmax(expected)).max() <= TOLERANCE
    assert (found.argmax(-1) == expected.argmax(-1)).all()

    assert_same_greedy_text(model, judge_model, ids[:PROMPT])
    assert_same_ragged_batch(model, judge_model)


def test_the_fairytale_model_gives_the_logits_and_the_text_of_transformers(tmp_path: Path) -> None:
    checkpoint = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint"
    bundle = export_bundle(checkpoint, tmp_path / "bundle")
    assert_same_model(bundle, transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32))


@pytest.mark.slow
def test_smollm2_gives_the_logits_and_the_text_of_transformers(tmp_path: Path) -> None:
    """transformers dequantizes the GGUF file with code of its own."""
    file = shutil.copy(pull("smollm2-135m-instruct"), tmp_path)  # transformers wants a directory of its own
    bundle = export_bundle("smollm2-135m-instruct", tmp_path / "bundle")
    assert_same_model(bundle, read_by_transformers(Path(file)))


def assert_same_model(bundle: Bundle, judge_model: Any) -> None:
    """On a text of its own kind: every logit, and the greedy continuation, end of text included."""
    model = Model.load(bundle.directory)
    prompt = model.tokenizer.encode("Once upon a time there lived a king and a queen, who had three daughters.")
    completion = model.generate(prompt, max_new_tokens=NEW, temperature=0)[0]
    with torch.no_grad():
        text = judge_model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=NEW,
        )[0]
    generated = text[len(prompt) :].tolist()
    assert list(completion.token_ids) == generated[: len(completion.token_ids)]
    assert len(generated) - len(completion.token_ids) <= 1  # transformers keeps the end-of-text token
    found = model.logits(text.numpy())
    (expected,) = judge(judge_model, [text.tolist()])
    assert np.abs(log_softmax(found) - log_softmax(expected)).max() <= TOLERANCE
    assert (found.argmax(-1) == expected.argmax(-1)).all()


def assert_same_greedy_text(model: Model, judge_model: Any, prompt: np.ndarray) -> None:
    """Token by token on the runtime's session, its cache growing on the way; transformers by its own generate."""
    with torch.no_grad():
        expected = judge_model.generate(
            torch.tensor(prompt[None]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            suppress_tokens=[0],
        )[0, len(prompt) :]
    tokens: list[int] = []
    with model.session.new_cache() as cache:
        logits = model.session.step(prompt[None], cache)
        for _ in range(NEW):
            scores = logits[0, -1].copy()
            scores[0] = -np.inf  # the end-of-text token, which transformers was told to leave out
            tokens.append(int(scores.argmax()))
            logits = model.session.step(np.array([[tokens[-1]]]), cache)
    assert tokens == expected.tolist()


def assert_same_ragged_batch(model: Model, judge_model: Any) -> None:
    """Rows of unequal length in one batch, then steps together across a growth of the cache; each row judged alone."""
    generator = np.random.default_rng(2)
    lengths, steps = (20, 3, 120), 12
    rows = [generator.integers(1, 300, length + steps) for length in lengths]
    judged = judge(judge_model, [row.tolist() for row in rows])
    with model.session.new_cache(batch=len(rows), capacity=max(lengths)) as cache:
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            model.session.step(row[None, :length], cache.row(index))
        for step in range(steps):
            ids = np.array([[row[length + step]] for row, length in zip(rows, lengths, strict=True)])
            logits = model.session.step(ids, cache)
            expected = np.stack([scores[length + step] for scores, length in zip(judged, lengths, strict=True)])
            assert np.abs(log_softmax(logits[:, -1]) - log_softmax(expected)).max() <= TOLERANCE
