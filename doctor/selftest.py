"""The self-test: the embedded model computes here what PyTorch computes, says what it should, and how fast.

`fairytale.json` holds what transformers computes with the model's checkpoint in float32 (made by
tests/golden/make_doctor_vectors.py); the embedded bundle is the same model in 8 bits, so there is a tolerance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .findings import Finding

if TYPE_CHECKING:
    from ..runtime.model import Model

VECTORS = Path(__file__).parent / "fairytale.json"
_PROMPT_TOKENS, _NEW_TOKENS, _REPEATS = 128, 128, 3


def selftest_findings(load: Callable[[], Model], provider: str, advice: str) -> Iterator[Finding]:
    """Load the embedded model on a provider, compare it with the vectors, and time it.

    Args:
        load: loads it.
        provider: `cpu`, `cuda` or `dml`: part of the findings' names.
        advice: what to do where it computes wrongly.
    """
    from ..conforming import check_logits, check_texts
    from ..runtime.errors import OnnxGptError

    parity, text, speed = (f"self-test on {provider}: {what}" for what in ("parity", "text", "speed"))
    vectors = read_vectors()
    try:
        model = load()
        logits, texts = check_logits(model, vectors), check_texts(model, vectors)
    except OnnxGptError as error:
        yield Finding(parity, "fault", f"{vectors['model']} can't be run: {' '.join(str(error).split())}", advice)
        return
    facts = {"cases": logits.cases, "worst": logits.worst, "tolerance": vectors["tolerance"]}
    if logits.failures:
        found = f"{len(logits.failures)} of {logits.cases} positions differ from PyTorch: {logits.failures[0]}"
        yield Finding(parity, "fault", found, advice, facts=facts)
    else:
        found = f"log-probabilities within {logits.worst:.2f} of PyTorch's, tolerance {vectors['tolerance']}"
        yield Finding(parity, "ok", found, facts=facts)
    facts = {"cases": texts.cases, "failed": len(texts.failures)}
    if texts.failures:
        found = f"{len(texts.failures)} of {texts.cases} greedy texts are not PyTorch's: {texts.failures[0]}"
        yield Finding(text, "fault", found, advice, facts=facts)
    else:
        yield Finding(text, "ok", f"{texts.cases} greedy texts as PyTorch writes them", facts=facts)
    yield _speed(model, speed)


def read_vectors() -> dict[str, Any]:
    """The vectors in the package."""
    vectors: dict[str, Any] = json.loads(VECTORS.read_text(encoding="utf-8"))
    return vectors


def _speed(model: Model, name: str) -> Finding:
    from ..benchmarking import measure

    measured = measure(lambda: model, prompt_tokens=_PROMPT_TOKENS, new_tokens=_NEW_TOKENS, repeat=_REPEATS)
    prefill, decode = measured.prefill_tokens_per_second, measured.decode_tokens_per_second
    facts = {
        "model": measured.model,
        "dtype": measured.dtype,
        "prompt_tokens": _PROMPT_TOKENS,
        "new_tokens": _NEW_TOKENS,
        "prefill_tokens_per_second": prefill,
        "decode_tokens_per_second": decode,
    }
    found = f"{measured.model} reads {prefill:,.0f} tokens/s and writes {decode:,.0f}"
    return Finding(name, "ok", found, facts=facts)
