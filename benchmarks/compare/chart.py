"""A comparison as a picture: horizontal bars for four workloads, drawn as SVG with no library."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from .results import Comparison, is_ours, middle
from .workloads import WORKLOADS

CHARTED = ("decode_64", "decode_1000", "decode_batch_8", "prefill_512")

_WIDTH, _NAMES, _NUMBERS = 460, 170, 60  # of a panel, and of the room left and right of its bars; pixels
_BAR, _GAP, _TITLE, _MARGIN, _HEADING = 16, 6, 30, 16, 62
_OURS, _THEIRS, _INK = "#d9480f", "#868e96", "#212529"


def render(comparison: Comparison) -> str:
    """An SVG document; every panel's fastest comes first."""
    titles = {workload.key: workload.title for workload in WORKLOADS}
    panels = []
    for key in CHARTED:
        found = [(name, middle(entry.tokens_per_second.get(key, ()))) for name, entry in comparison.entries.items()]
        bars = sorted(((name, value) for name, value in found if value is not None), key=lambda bar: -bar[1])
        if bars:
            panels.append((f"{titles[key]} (tokens/s)", bars))
    height = _TITLE + (_BAR + _GAP) * max((len(bars) for _, bars in panels), default=0) + _MARGIN
    rows = (len(panels) + 1) // 2
    drawn = [
        _panel(title, bars, _MARGIN + (index % 2) * (_WIDTH + _MARGIN), _HEADING + (index // 2) * height)
        for index, (title, bars) in enumerate(panels)
    ]
    machine = comparison.machine
    subtitle = f"{comparison.date}, {machine['processor']}, {comparison.threads} threads, "
    subtitle += f"medians of {comparison.rounds} interleaved rounds"
    total_width, total_height = 2 * _WIDTH + 3 * _MARGIN, _HEADING + rows * height
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{total_width}" height="{total_height}" '
            f'viewBox="0 0 {total_width} {total_height}" font-family="sans-serif" font-size="12" fill="{_INK}">',
            f'<rect width="{total_width}" height="{total_height}" fill="white"/>',
            f'<text x="{_MARGIN}" y="26" font-size="17" font-weight="bold">{escape(comparison.model)}</text>',
            f'<text x="{_MARGIN}" y="45">{escape(subtitle)}</text>',
            *drawn,
            "</svg>\n",
        ]
    )


def _panel(title: str, bars: Sequence[tuple[str, float]], left: int, top: int) -> str:
    longest = max(value for _, value in bars)
    room = _WIDTH - _NAMES - _NUMBERS
    lines = [f'<text x="{left}" y="{top + 16}" font-weight="bold">{escape(title)}</text>']
    for index, (name, value) in enumerate(bars):
        y = top + _TITLE + index * (_BAR + _GAP)
        width = max(room * value / longest, 1)
        color = _OURS if is_ours(name) else _THEIRS
        middle_line = y + _BAR - 4
        lines += [
            f'<text x="{left + _NAMES - 6}" y="{middle_line}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left + _NAMES}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{color}"/>',
            f'<text x="{left + _NAMES + width + 5:.1f}" y="{middle_line}">{value:,.0f}</text>',
        ]
    return "\n".join(lines)
