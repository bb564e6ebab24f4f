"""Everything that a comparison found, as plain data: what the JSON file holds and tables and charts are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from .contestants import OURS_PREFIX

FORMAT = "onnxgpt-comparison"


@dataclass
class Entry:
    """One contestant's figures: a list holds one value per round."""

    versions: dict[str, str | None]
    weight_bytes: int
    read_bytes: int | None = None  # of weights, per decoded token; known of our own graphs
    import_seconds: list[float] = field(default_factory=list)
    load_seconds: list[float] = field(default_factory=list)
    cold_first_token_seconds: list[float] = field(default_factory=list)  # from the process's start
    peak_bytes: list[int] = field(default_factory=list)
    first_token_seconds: list[float] = field(default_factory=list)  # of a prompt of 64, model loaded
    tokens_per_second: dict[str, list[float | None]] = field(default_factory=dict)  # by workload; None: failed
    quality: dict[str, dict[str, float]] = field(default_factory=dict)  # by text
    not_measured: dict[str, str] = field(default_factory=dict)  # what → why
    first_ids: list[int] = field(default_factory=list)  # greedy, after the same prompt for all
    idle_seconds: float = 0.0  # processor time used while others were measured


@dataclass
class Comparison:
    """A run: its settings, its machine, and everybody's figures."""

    date: str
    command: str
    machine: dict[str, Any]
    model: str
    threads: int
    rounds: int
    settings: dict[str, Any]
    entries: dict[str, Entry]
    missing: dict[str, str] = field(default_factory=dict)
    texts: dict[str, dict[str, Any]] = field(default_factory=dict)
    bandwidth: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Comparison:
        """Read what `write` wrote.

        Raises:
            ValueError: the file is no comparison.
        """
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise ValueError(f"{path} is no comparison: expected what `python benchmarks/compare run` writes")
        data["entries"] = {name: Entry(**entry) for name, entry in data["entries"].items()}
        return cls(**data)


def is_ours(name: str) -> bool:
    """Whether a contestant's name is of a bundle in this project's runtime."""
    return name.startswith(OURS_PREFIX)


def middle(values: Sequence[float | None]) -> float | None:
    """The median of what was measured; None when nothing was."""
    found = [value for value in values if value is not None]
    return median(found) if found else None


@dataclass(frozen=True)
class Ratio:
    """Ours over a peer's: median, least and greatest over the rounds in which both were measured."""

    median: float
    least: float
    greatest: float
    rounds: int


def ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Ratio | None:
    """Round by round, since what disturbs a round disturbs both; None when no round has both."""
    pairs = [a / b for a, b in zip(ours, theirs, strict=False) if a is not None and b]
    return Ratio(median(pairs), min(pairs), max(pairs), len(pairs)) if pairs else None


def quality_of(sums: Sequence[dict[str, float]]) -> dict[str, float]:
    """A text's figures from the sums of its windows: mean KL in nats, top-1 agreement, perplexity and its ratio."""
    total = {name: math.fsum(each[name] for each in sums) for name in sums[0]}
    return {
        "mean_kl": total["kl"] / total["positions"],
        "top1_agreement": total["top1"] / total["positions"],
        "perplexity": math.exp(total["nll"] / total["targets"]),
        "perplexity_ratio": math.exp((total["nll"] - total["reference_nll"]) / total["targets"]),
        "positions": total["positions"],
    }
