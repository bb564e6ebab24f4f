"""A comparison as Markdown: what was run, everybody's figures, and ours over theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .results import Comparison, Entry, is_ours, middle, ratio
from .workloads import WORKLOADS

NOT_MEASURED = "not measured"
_RATIO_WORKLOADS = ("prefill_64", "prefill_512", "decode_64", "decode_1000", "decode_batch_8")


def render(comparison: Comparison) -> str:
    """The whole report."""
    parts = [_heading(comparison), _speed(comparison), _costs(comparison)]
    parts += [_ratios(comparison, name) for name in comparison.entries if is_ours(name)]
    parts += [_bounds(comparison), _notes(comparison)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(comparison: Comparison) -> str:
    machine = comparison.machine
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB"
    lines = [
        f"# {comparison.model}, {comparison.threads} threads",
        "",
        f"- Date: {comparison.date}",
        f"- Machine: {machine['processor']}, {machine['processors']} processors ({', '.join(machine['features'])}), "
        f"{memory}, {machine['system']}, load average before: {machine['load_average']}",
        f"- Command: `{comparison.command}`",
        f"- Medians of {comparison.rounds} interleaved rounds in random order; {_settings(comparison)}",
    ]
    if "bytes_per_second" in comparison.bandwidth:
        speeds = comparison.bandwidth["bytes_per_second"]
        lines.append(
            f"- Memory read bandwidth in the same run, {comparison.threads} threads, "
            f"{comparison.bandwidth['instructions']}: {(middle(speeds) or 0) / 1e9:.1f} GB/s "
            f"({min(speeds) / 1e9:.1f} to {max(speeds) / 1e9:.1f})"
        )
    return "\n".join(lines)


def _settings(comparison: Comparison) -> str:
    return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in comparison.settings.items())


def _speed(comparison: Comparison) -> str:
    columns = ["tokens/s", *(workload.title for workload in WORKLOADS), "first token (64)"]

    def row(name: str, entry: Entry) -> list[str]:
        rates = [_figure(middle(entry.tokens_per_second.get(each.key, ()))) for each in WORKLOADS]
        return [_bold(name), *rates, _figure(middle(entry.first_token_seconds), 1e3, " ms", digits=1)]

    return "## Speed\n\n" + _table(columns, [row(name, entry) for name, entry in comparison.entries.items()])


def _costs(comparison: Comparison) -> str:
    texts = list(comparison.texts)
    columns = ["", "weights", "load", "process start to first token", "peak memory"]
    columns += [f"{figure}, {text}" for text in texts for figure in ("KL", "perplexity ratio", "top-1")]
    columns.append("versions")

    def row(name: str, entry: Entry) -> list[str]:
        cells = [
            _bold(name),
            f"{entry.weight_bytes / 1e6:.0f} MB",
            _figure(middle(entry.load_seconds), 1, " s", digits=2),
            _figure(middle(entry.cold_first_token_seconds), 1, " s", digits=2),
            _figure(middle(entry.peak_bytes), 1e-6, " MB"),
        ]
        for text in texts:
            found = entry.quality.get(text)
            cells += [f"{max(found['mean_kl'], 0.0):.4f}", f"{found['perplexity_ratio']:.4f}",
                      f"{100 * found['top1_agreement']:.1f} %"] if found else [NOT_MEASURED] * 3  # fmt: skip
        versions = (f"{package} {version}" for package, version in entry.versions.items())
        return [*cells, ", ".join(versions)]

    rows = [row(name, entry) for name, entry in comparison.entries.items()]
    return "## Size, start, memory, quality\n\n" + _table(columns, rows)


def _ratios(comparison: Comparison, ours: str) -> str:
    mine = comparison.entries[ours].tokens_per_second
    titles = {workload.key: workload.title for workload in WORKLOADS}

    def cell(theirs: Entry, key: str) -> str:
        found = ratio(mine.get(key, ()), theirs.tokens_per_second.get(key, ()))
        return f"{found.median:.2f} × ({found.least:.2f}–{found.greatest:.2f})" if found else NOT_MEASURED

    rows = [
        [name, *(cell(entry, key) for key in _RATIO_WORKLOADS)]
        for name, entry in comparison.entries.items()
        if name != ours
    ]
    title = f"## {ours} over the others (median of the rounds' ratios; least and greatest)"
    return f"{title}\n\n" + _table(["over", *(titles[key] for key in _RATIO_WORKLOADS)], rows) if rows else ""


def _bounds(comparison: Comparison) -> str:
    """How near ours come to the tokens per second that reading their weights at the measured bandwidth would allow."""
    speeds = comparison.bandwidth.get("bytes_per_second")
    lines = []
    for name, entry in comparison.entries.items():
        shares = ratio(entry.tokens_per_second.get("decode_64", ()), speeds or ())
        if entry.read_bytes and speeds and shares:
            bound = (middle(speeds) or 0) / entry.read_bytes
            lines.append(
                f"- {name} reads {entry.read_bytes / 1e6:.0f} MB of weights per token: at most {bound:.0f} tokens/s; "
                f"decoding after 64 tokens reaches {100 * shares.median * entry.read_bytes:.0f} % of that"
            )
    return "## The bound that memory sets\n\n" + "\n".join(lines) if lines else ""


def _notes(comparison: Comparison) -> str:
    lines = [f"- {name} could not take part: {reason}" for name, reason in comparison.missing.items()]
    for name, entry in comparison.entries.items():
        lines += [f"- {name}, {what}: {reason}" for what, reason in entry.not_measured.items()]
        if entry.idle_seconds > 0:
            lines.append(f"- {name} used {entry.idle_seconds:.2f} s of processor time while others were measured")
    lines += [
        f"- {name}: {text['tokens']} tokens in windows of {text['window']}, sha256 {text['sha256'][:16]}…"
        for name, text in comparison.texts.items()
    ]
    return "## Notes\n\n" + "\n".join(lines) if lines else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    line: Callable[[Sequence[str]], str] = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
    ruler = ["---", *("---:" for _ in columns[1:])]
    return "\n".join([line(columns), line(ruler), *(line(row) for row in rows)])


def _figure(value: float | None, factor: float = 1.0, unit: str = "", digits: int = 0) -> str:
    return NOT_MEASURED if value is None else f"{value * factor:,.{digits}f}{unit}"


def _bold(name: str) -> str:
    return f"**{name}**" if is_ours(name) else name
