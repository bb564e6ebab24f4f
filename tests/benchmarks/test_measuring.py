"""A whole comparison in small: the embedded bundle against itself under two names."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from compare.contestants import Contestant
from compare.measuring import Measuring
from compare.workloads import WORKLOADS, Workload, prompts, tokens_per_second

TINY = (
    Workload("prefill_64", "prefill", 64, repeats=2),
    Workload("decode_64", "decode", 16, new_tokens=20),
    Workload("decode_batch_8", "batch", 16, new_tokens=20, rows=3),
    Workload("decode_1000", "too long", 1000, new_tokens=128),
)


SIGSTOP = "a worker is stopped with SIGSTOP and watched through /proc: Linux"


@pytest.fixture
def measuring(fairytale: Contestant) -> Iterator[Measuring]:
    if not sys.platform.startswith("linux"):
        pytest.skip(SIGSTOP)
    other = dataclasses.replace(fairytale, name="other", read_bytes=None)
    found = Measuring([fairytale, other], threads=1, vocabulary=4096, context=512, seed=3, say=lambda message: None)
    yield found
    found.close()


def test_every_contestant_is_measured_in_every_round(measuring: Measuring) -> None:
    bandwidth = measuring.speed(2, limit_seconds=1.0, workloads=TINY)

    for entry in measuring.entries.values():
        assert set(entry.tokens_per_second) == {"prefill_64", "decode_64", "decode_batch_8"}
        assert all(len(values) == 2 and all(values) for values in entry.tokens_per_second.values())
        assert len(entry.first_token_seconds) == 2
        assert entry.not_measured == {}
        assert entry.idle_seconds == 0
    assert len(bandwidth.get("bytes_per_second", [])) == 2 or "compiler" in bandwidth["not_measured"]


def test_loading_takes_fresh_processes_and_everybody_says_the_same(measuring: Measuring) -> None:
    measuring.loading(1)

    ours, other = measuring.entries.values()
    assert ours.first_ids == other.first_ids
    assert len(ours.first_ids) == 16
    for entry in (ours, other):
        assert entry.cold_first_token_seconds[0] > entry.load_seconds[0] + entry.import_seconds[0]
        assert entry.peak_bytes[0] > entry.weight_bytes


def test_quality_is_of_the_others_against_the_reference(measuring: Measuring) -> None:
    measuring.quality({"text": [[300, 17, 1234, 5], [900, 901]]}, reference="other")

    ours = measuring.entries["onnxgpt fairytale"].quality["text"]
    assert ours["mean_kl"] == pytest.approx(0.0, abs=1e-6)
    assert ours["positions"] == 6
    assert ours["perplexity_ratio"] == pytest.approx(1.0)


def test_without_the_reference_quality_is_not_measured(measuring: Measuring) -> None:
    measuring.quality({"text": [[300, 17]]}, reference="PyTorch fp32")

    reasons = {entry.not_measured["quality"] for entry in measuring.entries.values()}
    assert reasons == {"the reference, PyTorch fp32, does not take part"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason=SIGSTOP)
def test_one_that_fails_does_not_stop_the_others(fairytale: Contestant, tmp_path: Path) -> None:
    broken = dataclasses.replace(fairytale, name="broken", model=tmp_path)
    (tmp_path / "file").write_bytes(b"nothing")
    found = Measuring([broken, fairytale], threads=1, vocabulary=4096, context=512, seed=0, say=lambda message: None)

    found.loading(1)
    found.speed(1, limit_seconds=1.0, workloads=TINY[:1])
    found.close()

    assert "bundle" in found.entries["broken"].not_measured["speed"]
    assert found.entries["broken"].tokens_per_second == {}
    assert len(found.entries["onnxgpt fairytale"].tokens_per_second["prefill_64"]) == 1


def test_rates_by_hand() -> None:
    prefill = Workload("p", "", 100)
    batch = Workload("b", "", 64, new_tokens=9, rows=8)
    reply = {"rest_seconds": 2.0, "rest_tokens": 8}

    assert tokens_per_second(prefill, [{"first_seconds": each} for each in (0.5, 9.0, 0.25)]) == 200
    assert tokens_per_second(batch, [reply]) == 32
    with pytest.raises(ValueError, match="fewer than two tokens"):
        tokens_per_second(batch, [{"rest_seconds": 0.0, "rest_tokens": 0}])


def test_prompts_are_within_the_vocabulary_and_never_the_same() -> None:
    import random

    stream = random.Random(1)
    first, second = prompts(stream, 2, 50, 4096), prompts(stream, 2, 50, 4096)

    assert first != second
    assert all(0 <= token < 4096 for row in first + second for token in row)
    assert all(0 <= token < 8 for row in prompts(stream, 1, 50, 8) for token in row)


def test_workloads_keep_within_a_models_context() -> None:
    by_key = {workload.key: workload for workload in WORKLOADS}

    assert by_key["decode_1000"].within(8192) == by_key["decode_1000"]
    shorter = by_key["decode_1000"].within(1024)
    assert shorter is not None
    assert shorter.new_tokens == 24
    assert by_key["decode_1000"].within(512) is None
    assert by_key["prefill_512"].within(512) is None
