"""Where ONNX Runtime put the nodes of a graph, and whether that is what the user asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ProviderError

CPU = "CPUExecutionProvider"
FALLBACK_LIMIT = 0.1  # of the nodes that compute: the most that may run on the CPU beside a device
# Arithmetic on shapes, lengths and positions: a few whole numbers, which ONNX Runtime keeps on the CPU on purpose since
# a device would have to send them back (GetCpuPreferredNodes in its fallback_cpu_capability.cc). Nodes of the same
# operators on activations are as little counted, on either side.
SHAPE_OPERATORS = frozenset(
    (
        *("Shape", "Size", "Gather", "Squeeze", "Unsqueeze", "Concat", "Slice", "Reshape", "Cast", "Constant"),
        *("ConstantOfShape", "Identity", "Range", "Expand", "Where", "Equal", "Less", "LessOrEqual", "Greater"),
        *("GreaterOrEqual", "And", "Or", "Not", "Add", "Sub", "Mul", "Div", "Mod", "Neg", "Min", "Max", "Clip"),
        *("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "MemcpyFromHost", "MemcpyToHost"),
    )
)


@dataclass(frozen=True)
class Placement:
    """How many nodes of each operator run on each provider, by ONNX Runtime's names.

    >>> Placement.of([(CPU, "Shape"), ("CUDAExecutionProvider", "MatMul")]).nodes()
    {'CPUExecutionProvider': 1, 'CUDAExecutionProvider': 1}
    """

    counts: tuple[tuple[str, str, int], ...] = ()  # provider, operator, nodes; none where ONNX Runtime doesn't tell

    @classmethod
    def of(cls, records: Iterable[tuple[str, str]]) -> Placement:
        """Count records of a provider and an operator, one for each node."""
        counts = Counter(records)
        return cls(tuple((provider, operator, count) for (provider, operator), count in counts.items()))

    @classmethod
    def of_session(cls, session: Any) -> Placement:
        """Of an `InferenceSession` that was opened with `RECORD_KEY`; empty where ONNX Runtime is too old to tell."""
        if not hasattr(session, "get_provider_graph_assignment_info"):
            return cls()
        parts = session.get_provider_graph_assignment_info()
        return cls.of((part.ep_name, node.op_type) for part in parts for node in part.get_nodes())

    def nodes(self) -> dict[str, int]:
        """Nodes on each provider."""
        found: Counter[str] = Counter()
        for provider, _, count in self.counts:
            found[provider] += count
        return dict(found)

    def fallen_back(self) -> dict[str, int]:
        """Nodes that compute on the CPU, by operator; shape arithmetic is none of them. The most frequent first."""
        found: Counter[str] = Counter()
        for provider, operator, count in self.counts:
            if provider == CPU and operator not in SHAPE_OPERATORS:
                found[operator] += count
        return dict(found.most_common())

    @property
    def fallback_share(self) -> float:
        """The share of the nodes that compute which do so on the CPU, 0 to 1."""
        computing = sum(count for _, operator, count in self.counts if operator not in SHAPE_OPERATORS)
        return sum(self.fallen_back().values()) / computing if computing else 0.0

    def require_on_device(self, name: str) -> None:
        """Refuse a graph whose nodes run on the CPU to more than `FALLBACK_LIMIT`, though a device was to run it.

        Args:
            name: the provider's, as people write it.

        Raises:
            ProviderError: operators and counts are named.
        """
        if self.fallback_share <= FALLBACK_LIMIT:
            return
        fallen = self.fallen_back()
        computing = round(sum(fallen.values()) / self.fallback_share)
        raise ProviderError(
            f"{sum(fallen.values())} of {computing} nodes that compute have no kernel on {name} and would run on the "
            f"CPU ({shown_counts(fallen)}), and {FALLBACK_LIMIT:.0%} may: export the model with "
            f"--target {name}, use provider cpu, or allow it with --allow-fallback"
        )


def shown_counts(counts: Mapping[str, int]) -> str:
    """Nodes by operator, for people.

    >>> shown_counts({"MatMul": 2, "Softmax": 1})
    '2 MatMul, 1 Softmax'
    """
    return ", ".join(f"{count} {operator}" for operator, count in counts.items())


NOT_TOLD = Placement()
RECORD_KEY = "session.record_ep_graph_assignment_info"  # a session's config entry: "1" records the placement
