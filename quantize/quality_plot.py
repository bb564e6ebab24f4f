"""A picture of a QualityReport: each layer's error, and the KL divergence along the text."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import OptionError
from .quality import QualityReport

_POINT_COUNT = 128  # of the line along the text, each the mean of as many positions as it takes
_SIZE = (9.0, 6.0)  # inches
_DOTS_PER_INCH = 120
_COLOUR, _PALE = "#1f5a99", "#b8cce0"


def plot_quality(report: QualityReport, path: str | os.PathLike[str]) -> None:
    """Write a PNG with two panels: relative error layer by layer, and KL divergence along the text.

    Raises:
        OptionError: matplotlib is not installed, the name does not end in .png, or the file can't be written.
    """
    target, make_figure = check_plot(path)
    figure = make_figure(figsize=_SIZE, layout="constrained")
    title = f"{report.candidate} against {report.reference}\n{report.tokens:,} tokens of {report.text}"
    figure.suptitle(title, fontsize="large")
    layers, along = figure.subplots(2, 1)
    _draw_layers(layers, report)
    _draw_along(along, report)
    try:
        figure.savefig(target, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    except OSError as error:
        raise OptionError(f"{target} can't be written ({error.strerror}): choose another file") from error


def check_plot(path: str | os.PathLike[str]) -> tuple[Path, Callable[..., Any]]:
    """Refuse what would fail after long work: the file's path, and matplotlib's figure.

    Raises:
        OptionError: as `plot_quality`.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise OptionError(f"{target} does not end in .png: expected the name of a PNG file")
    if not target.absolute().parent.is_dir():
        raise OptionError(f"{target.parent} is no directory: expected one to write {target.name} in")
    try:
        from matplotlib.figure import Figure  # not pyplot: no global state, no display
    except ImportError as error:
        raise OptionError("a plot needs matplotlib, which is not installed: install onnxgpt[plot]") from error
    return target, Figure


def _draw_layers(axes: Any, report: QualityReport) -> None:
    axes.set_title("Error of the residual stream after each block", loc="left", fontsize="medium")
    axes.set_xlabel("block")
    axes.set_ylabel("relative error")
    if not report.layer_errors:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        return
    axes.bar(range(len(report.layer_errors)), report.layer_errors, color=_COLOUR)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _draw_along(axes: Any, report: QualityReport) -> None:
    count = len(report.kl)
    group = max(1, count // _POINT_COUNT)
    starts = np.arange(0, count, group)
    means = np.add.reduceat(report.kl, starts) / np.diff(np.append(starts, count))
    axes.set_title("KL divergence along the text", loc="left", fontsize="medium")
    axes.set_xlabel("position in the text (tokens)")
    axes.set_ylabel("nats")
    axes.plot(np.arange(count), report.kl, ".", color=_PALE, markersize=2, label="each position")
    axes.step(starts, means, where="post", color=_COLOUR, linewidth=1.2, label=f"mean of {group}")
    axes.axhline(report.mean_kl, color="black", linewidth=0.8, linestyle="--", label=f"mean {report.mean_kl:.4f}")
    if report.kl.max() > 0:
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(float(np.quantile(report.kl, 0.02)), 1e-9))
    axes.set_xlim(0, count)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small", ncols=3)
