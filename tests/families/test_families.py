"""Every family, from a checkpoint that transformers wrote to the runtime's logits and int8, judged by transformers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import onnxgpt
from onnxgpt.export import export_bundle
from onnxgpt.models.families import FAMILIES
from onnxgpt.quantize import quantize_bundle
from onnxgpt.runtime.model import Model

from .cases import Case, all_cases
from .judging import assert_same_greedy_text, assert_same_prompt, assert_same_ragged_batch, save, tiny_model

PACKAGE = Path(onnxgpt.__file__).parent
# Calibrating on random weights needs no literature, and a tiny model no long one.
TEXT = "In a kingdom by the sea there lived a miller who had three sons, a mill, a donkey and a cat. " * 40


def cases_of_both_runs() -> Iterator[object]:
    """Every case; those after a family's first are for the slow run."""
    seen: set[str] = set()
    for case in all_cases():
        yield pytest.param(case, id=str(case), marks=[pytest.mark.slow] if case.model_type in seen else [])
        seen.add(case.model_type)


@pytest.mark.parametrize("case", cases_of_both_runs())
def test_a_bundle_is_the_model_of_transformers(case: Case, tmp_path: Path) -> None:
    judge_model = tiny_model(case.model_type, case.settings)
    bundle = export_bundle(save(judge_model, tmp_path / "source"), tmp_path / "bundle")
    model = Model.load(bundle.directory)

    assert_same_prompt(model, judge_model)
    assert_same_greedy_text(model, judge_model)
    assert_same_ragged_batch(model, judge_model)

    assert_int8_is_judged(bundle.directory, tmp_path)


def assert_int8_is_judged(bundle: Path, directory: Path) -> None:
    """Random weights suffer more than trained ones, so no recipe's limit holds; there is a report, and it is small."""
    text = directory / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    made = quantize_bundle(bundle, directory / "int8", calibration=text, evaluation=text, accept_quality=True)
    assert made.manifest.quality is not None
    assert 0 < made.manifest.quality["mean_kl"] < 0.1
    full, small = Model.load(bundle), Model.load(made.directory)
    ids = np.random.default_rng(4).integers(1, 300, 60)
    expected, found = full.logits(ids), small.logits(ids)
    assert 0 < np.abs(found - expected).mean() < 0.2 * expected.std()


def test_every_family_has_at_least_three_cases() -> None:
    counts = Counter(case.model_type for case in all_cases())
    assert set(counts) == set(FAMILIES)
    assert min(counts.values()) >= 3, counts


def test_no_family_is_named_outside_of_the_families() -> None:
    """Which family it is decides nothing but the mapping of its config and weights."""
    names = "|".join(re.escape(name) for name in FAMILIES)
    branch = re.compile(
        rf"\b(if|elif|match|case|while|assert)\b[^#\n]*[\"']({names})[\"']|\bif\b[^#\n]*\.(family|model_type)\b"
    )
    sources = [
        path
        for path in PACKAGE.rglob("*.py")
        # GGUF calls two kinds of tokenizers "gpt2" and "llama"; that is what gguf_tokenizer.py tells apart.
        if path.name != "gguf_tokenizer.py"
        and not {"tests", "benchmarks", "families", "examples", "build"} & set(path.relative_to(PACKAGE).parts)
    ]
    assert len(sources) > 100
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in sources
        for line in path.read_text(encoding="utf-8").splitlines()
        if branch.search(line)
    ]
    assert not found
