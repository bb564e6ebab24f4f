"""Tiny random models of transformers, and how a bundle is held against one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from onnxgpt.runtime.model import Model

from ..export.conftest import VOCAB_SIZE, byte_tokenizer

TOLERANCE = 1e-3  # in log-probability
LENGTH = 150  # tokens of the prompt that is compared position by position
PROMPT, NEW = 40, 64  # past + new crosses the cache's growth at 64 tokens
END = 0  # the end-of-text token, which neither side may choose


def tiny_model(model_type: str, settings: dict[str, Any]) -> Any:
    """A random model of transformers in which every parameter matters: no norm or bias is neutral."""
    settings = {"vocab_size": VOCAB_SIZE, "bos_token_id": END, "eos_token_id": END, "pad_token_id": END} | settings
    config = transformers.AutoConfig.for_model(model_type, **settings)
    config._attn_implementation = "eager"  # the others leave out soft caps
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3 if parameter.dim() > 1 else 0.1)
    return model


def save(model: Any, directory: Path) -> Path:
    """`save_pretrained`, and a byte-level tokenizer."""
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_text(byte_tokenizer(), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


def log_probabilities(logits: Any) -> NDArray[np.float64]:
    """log softmax over the last dimension, in double precision."""
    return torch.log_softmax(torch.as_tensor(logits).double(), dim=-1).numpy()


def judge(model: Any, rows: list[list[int]]) -> list[NDArray[np.float64]]:
    """transformers' log-probabilities [sequence, vocabulary] of each row by itself."""
    with torch.no_grad():
        return [log_probabilities(model(torch.tensor([row]), use_cache=False).logits[0]) for row in rows]


def assert_same_prompt(model: Model, judge_model: Any) -> None:
    """Every position of a whole prompt."""
    ids = np.random.default_rng(1).integers(1, VOCAB_SIZE, LENGTH)
    (expected,) = judge(judge_model, [ids.tolist()])
    assert expected.std() > 0.5  # otherwise the comparison would say little
    found = log_probabilities(model.logits(ids))
    assert np.abs(found - expected).max() <= TOLERANCE


def assert_same_greedy_text(model: Model, judge_model: Any) -> None:
    """Token by token on the runtime's session, its cache growing on the way; transformers by its own generate."""
    prompt = np.random.default_rng(3).integers(1, VOCAB_SIZE, PROMPT)
    with torch.no_grad():
        expected = judge_model.generate(
            torch.tensor(prompt[None]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            suppress_tokens=[END],
        )[0, len(prompt) :]
    tokens: list[int] = []
    with model.session.new_cache() as cache:
        logits = model.session.step(prompt[None], cache)
        for _ in range(NEW):
            scores = logits[0, -1].copy()
            scores[END] = -np.inf
            tokens.append(int(scores.argmax()))
            logits = model.session.step(np.array([[tokens[-1]]]), cache)
    assert tokens == expected.tolist()


def assert_same_ragged_batch(model: Model, judge_model: Any) -> None:
    """Rows of unequal length in one batch, then steps together across a growth of the cache; each row judged alone."""
    generator = np.random.default_rng(2)
    lengths, steps = (20, 3, 120), 12
    rows = [generator.integers(1, VOCAB_SIZE, length + steps) for length in lengths]
    judged = judge(judge_model, [row.tolist() for row in rows])
    with model.session.new_cache(batch=len(rows), capacity=max(lengths)) as cache:
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            model.session.step(row[None, :length], cache.row(index))
        for step in range(steps):
            ids = np.array([[row[length + step]] for row, length in zip(rows, lengths, strict=True)])
            logits = model.session.step(ids, cache)
            expected = np.stack([scores[length + step] for scores, length in zip(judged, lengths, strict=True)])
            assert np.abs(log_probabilities(logits[:, -1]) - expected).max() <= TOLERANCE
