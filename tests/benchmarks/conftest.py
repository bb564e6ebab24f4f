"""The benchmarks are scripts beside the package: their directory is where `compare` and `bandwidth` are found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from compare.contestants import Contestant, our_bundle  # noqa: E402
from compare.processes import Worker  # noqa: E402
from compare.results import Comparison, Entry  # noqa: E402

EMBEDDED = ROOT / "models" / "fairytale" / "bundle"


@pytest.fixture(scope="session")
def fairytale() -> Contestant:
    """The embedded bundle as a contestant."""
    return our_bundle("fairytale", EMBEDDED)


@pytest.fixture(scope="module")
def worker(fairytale: Contestant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Its process, with the model loaded."""
    if not sys.platform.startswith("linux"):
        pytest.skip("a worker is stopped with SIGSTOP and watched through /proc: Linux")
    with fairytale.start(1, tmp_path_factory.mktemp("worker") / "log") as process:
        process.ask("load")
        yield process


@pytest.fixture
def comparison() -> Comparison:
    """Figures made up so that every ratio is easy to see."""
    ours = Entry(
        versions={"onnxgpt": "1.0"},
        weight_bytes=200_000_000,
        read_bytes=100_000_000,
        load_seconds=[0.5],
        tokens_per_second={"decode_64": [120.0, 200.0, 160.0], "prefill_512": [1000.0, 1000.0, 1000.0]},
        quality={"tales.txt": {"mean_kl": 0.0025, "perplexity_ratio": 1.001, "top1_agreement": 0.95}},
    )
    theirs = Entry(
        versions={"peer": "2.0"},
        weight_bytes=144_000_000,
        tokens_per_second={"decode_64": [100.0, 100.0, 100.0], "prefill_512": [None, None, None]},
        not_measured={"quality": "gives no logits of a prompt", "prefill_512": "crashed"},
        idle_seconds=0.25,
    )
    machine = {
        "processor": "Some CPU", "processors": 2, "features": ["avx2"], "memory_bytes": 8 * 2**30,
        "system": "Linux x86_64", "load_average": [0.1, 0.2, 0.3],
    }  # fmt: skip
    return Comparison(
        date="2026-01-02",
        command="python benchmarks/compare run",
        machine=machine,
        model="tiny",
        threads=2,
        rounds=3,
        settings={"seed": 0},
        entries={"onnxgpt int8": ours, "peer & sons Q8": theirs},
        missing={"absent peer": "no such package"},
        texts={"tales.txt": {"sha256": "ab" * 32, "tokens": 512, "window": 512}},
        bandwidth={"bytes_per_second": [20e9, 40e9, 32e9], "instructions": "AVX2"},
    )
