"""Vectors: made from the runtime, true by other means, and able to fail."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from click.testing import CliRunner

import onnxgpt
from onnxgpt.cli import onnxgpt as command
from onnxgpt.conforming import check_vectors, read_vectors
from onnxgpt.export.package import package_bundle
from onnxgpt.export.package.vectors import certain_tokens
from onnxgpt.export.pipeline import export_checkpoint
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.errors import BundleError
from onnxgpt.runtime.model import Model

from ..export.conftest import CONFIGS, checkpoint_of, random_gpt

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "models" / "fairytale" / "bundle"


@pytest.fixture(scope="module")
def model() -> Model:
    return onnxgpt.load("fairytale")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_bundle(BUNDLE, tmp_path_factory.mktemp("package") / "fairytale").directory


@pytest.fixture
def vectors(package: Path) -> dict[str, Any]:
    return read_vectors(package)


def test_the_random_numbers_are_those_of_the_specification(vectors: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "random.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\w+) \| (\w+) \| ([\d.]+) \|", page, re.MULTILINE)

    assert {
        (case["seed"], case["sequence"], case["step"], *case["words"], case["number"]) for case in vectors["random"]
    } == {
        (seed, int(sequence), int(step), int(first, 16), int(second, 16), float(number))
        for seed, sequence, step, first, second, number in rows
    }


def test_token_ids_are_those_of_the_tokenizers_library(vectors: dict[str, Any]) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(BUNDLE / "tokenizer.json"))

    assert len(vectors["tokenizer"]) > 40
    for case in vectors["tokenizer"]:
        assert tokenizer.encode(case["text"]).ids == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]


def test_streams_hold_characters_back_and_are_the_whole_text(vectors: dict[str, Any]) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(BUNDLE / "tokenizer.json"))
    for case in vectors["streams"]:
        assert "".join(case["pieces"]) + case["rest"] == tokenizer.decode(case["ids"])
    assert any(piece == "" for case in vectors["streams"] for piece in case["pieces"])


def test_logits_are_those_of_the_bare_graph(vectors: dict[str, Any]) -> None:
    session = ort.InferenceSession(str(BUNDLE / "model.onnx"), providers=["CPUExecutionProvider"])
    for case in vectors["logits"]:
        ids = np.array([case["ids"]], np.int64)
        empty = {
            item.name: np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32)
            for item in session.get_inputs()
            if item.name.startswith("past")
        }
        [rows] = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)} | empty)
        for place in case["positions"]:
            row = rows[0, place["position"]].astype(np.float64)
            logprobs = row - np.log(np.exp(row - row.max()).sum()) - row.max()
            assert place["tokens"] == np.argsort(-row, kind="stable")[:8].tolist()
            np.testing.assert_allclose(place["logprobs"], logprobs[place["tokens"]], atol=1e-4)


def test_texts_are_of_every_kind_and_one_ends_at_an_end_token(vectors: dict[str, Any]) -> None:
    texts = vectors["texts"]

    assert {case["options"]["do_sample"] for case in texts} == {True, False}
    assert any(case["options"].get("repetition_penalty", 1) != 1 for case in texts)
    [ended] = [case for case in texts if case["finish_reason"] == "eos"]
    assert ended["ids"][-1] == ended["options"]["eos_token_id"]
    assert ended["ids"][:-1] == texts[0]["ids"][: len(ended["ids"]) - 1]


def test_texts_end_where_a_small_difference_could_change_them(model: Model) -> None:
    ids = model.tokenizer.encode("Once upon a time there was")
    greedy = {"do_sample": False}
    new = model.generate(ids, max_new_tokens=24, **greedy)[0].token_ids
    rows = np.sort(model.logits([*ids, *new])[len(ids) - 1 : -1], axis=1)
    margins = rows[:, -1] - rows[:, -2]

    assert certain_tokens(model, ids, new, greedy, 0.0) == len(new)
    for tolerance in (0.05, 0.2, 1.0):
        certain = certain_tokens(model, ids, new, greedy, tolerance)
        # Two logits that are both off by half the tolerance can change places only if they are no further apart.
        assert certain >= next((step for step, margin in enumerate(margins) if margin <= tolerance), len(new))
        assert certain == len(new) or margins[certain] <= tolerance
    assert certain_tokens(model, ids, new, greedy, 100.0) == 0


def test_a_package_passes_on_the_machine_that_made_it(package: Path) -> None:
    result = CliRunner().invoke(command, ["verify", str(package), "--vectors"])

    assert result.exit_code == 0, result.output
    for part in ("random numbers", "tokenizer", "streams", "logits", "texts", "generate.onnx", "text.onnx"):
        assert re.search(rf"^{part}: \d+ as they should be", result.output, re.MULTILINE)


@pytest.mark.parametrize(
    ("part", "spoil"),
    [
        ("random numbers", lambda vectors: vectors["random"][1].update(number=0.5)),
        ("tokenizer", lambda vectors: vectors["tokenizer"][3]["ids"].append(5)),
        ("streams", lambda vectors: vectors["streams"][0]["pieces"].insert(0, "x")),
        ("logits", lambda vectors: vectors["logits"][0]["positions"][0]["logprobs"].__setitem__(2, 0.0)),
        ("texts", lambda vectors: vectors["texts"][-1]["ids"].reverse()),
    ],
)
def test_a_port_that_differs_is_found_out(model: Model, vectors: dict[str, Any], part: str, spoil: Any) -> None:
    spoil(vectors)
    assert [found.name for found in check_vectors(model, vectors) if found.failures] == [part]


def test_a_difference_fails_the_command(package: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(package, tmp_path / "copy")
    vectors = read_vectors(copy)
    vectors["texts"][0]["text"] += "!"
    data = json.dumps(vectors).encode()
    manifest = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    (copy / "vectors.json").write_bytes(data)
    manifest["files"]["vectors.json"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (copy / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    result = CliRunner().invoke(command, ["verify", str(copy), "--vectors"])

    assert result.exit_code == 1
    assert re.search(r"^texts: 1 of \d+ wrong; the first, ", result.output, re.MULTILINE)
    assert "does not compute its vectors on this machine (texts, text.onnx)" in str(result.exception)


def test_a_bundle_without_vectors_is_told_how_to_get_them() -> None:
    with pytest.raises(BundleError, match=r"has no vectors\.json: make it with `onnxgpt package"):
        read_vectors(BUNDLE)


def test_a_model_without_certain_choices_has_logits_to_compare_and_says_that_it_has_no_texts(tmp_path: Path) -> None:
    """All tokens are about as likely: texts would differ from engine to engine, logits do not."""
    gpt = random_gpt(**CONFIGS["llama"])
    for parameter in gpt.parameters():
        parameter.mul_(1e-3)
    bundle = package_bundle(export_checkpoint(checkpoint_of(gpt), tmp_path / "flat").directory, tmp_path / "packaged")
    vectors = read_vectors(bundle.directory)

    assert vectors["texts"] == []
    assert len(vectors["logits"]) == 2
    parts = {part.name: part for part in check_vectors(Model.load(bundle.directory), vectors)}
    assert parts["logits"].cases > 8
    assert not parts["logits"].failures
    assert parts["texts"].line().startswith("texts: none to compare")
