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

from ..families.judging import (
    TOLERANCE,
    assert_same_greedy_text,
    assert_same_prompt,
    assert_same_ragged_batch,
    judge,
    log_probabilities,
)
from ..models.conftest import read_by_transformers

NEW = 128  # tokens, across two growths of the cache

STANDARD = {
    "gpt2": ("gpt2", {}),
    "llama, one key head, biases": (
        "llama",
        {"num_key_value_heads": 1, "head_dim": 16, "attention_bias": True, "mlp_bias": True},
    ),
}


@pytest.mark.parametrize("case", STANDARD)
def test_a_bundle_of_standard_operators_gives_the_logits_and_the_text_of_transformers(
    save_transformers: Callable[..., tuple[Any, Path]], tmp_path: Path, case: str
) -> None:
    """The fused ones, for every family: tests/families."""
    family, changes = STANDARD[case]
    judge_model, directory = save_transformers(family, **changes)
    model = Model.load(export_bundle(directory, tmp_path / "bundle", operators="standard").directory)
    assert_same_prompt(model, judge_model)
    assert_same_greedy_text(model, judge_model)
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
    assert np.abs(log_probabilities(found) - expected).max() <= TOLERANCE
    assert (found.argmax(-1) == expected.argmax(-1)).all()
