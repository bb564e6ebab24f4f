"""What `onnxgpt score --against` does: a bundle judged against another one, or against PyTorch itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .loading import find_bundle
from .quantize.quality import QualityReport, compare_readers, measure_quality, shared_ids
from .quantize.readers import BundleReader
from .quantize.text_files import EvaluationText
from .runtime.bundle import TOKENIZER_FILE, Bundle
from .runtime.foreign import holds_graphs, open_any
from .runtime.manifest import MANIFEST_NAME
from .runtime.settings import DEFAULT_SETTINGS, SessionSettings

Progress = Callable[[str, float | None], None]


def read_text(file: str | None) -> EvaluationText:
    """The text of a file, of stdin (`-`), or the one in the package when none is named.

    Raises:
        OptionError: the file can't be read or is not UTF-8 text.
    """
    if file is None:
        return EvaluationText.packaged("evaluation")
    if file == "-":
        return EvaluationText.from_bytes(sys.stdin.buffer.read(), "stdin")
    return EvaluationText.read(file)


def compare(
    model: str,
    against: str,
    text: EvaluationText,
    *,
    window: int | None = None,
    stride: int | None = None,
    tokens: int = 4096,
    settings: SessionSettings = DEFAULT_SETTINGS,
    progress: Progress | None = None,
) -> QualityReport:
    """Judge a bundle on a text; sizes as in `quantize.quality.measure_quality`.

    Args:
        model: a bundle's directory or a catalogue name.
        against: a bundle likewise, or any checkpoint that `export` opens: then PyTorch is the judge.
        text: what both read.
        window: see `measure_quality`, as all that follow.
        stride: see window.
        tokens: see window.
        settings: see window; the threads are of PyTorch, too.
        progress: see window.

    Raises:
        OnnxGptError: as `Bundle.open`, `measure_quality` and, for a checkpoint, `models.checkpoint.open_checkpoint`.
        ModuleNotFoundError: `against` is a checkpoint and PyTorch is not installed.
    """
    candidate = open_any(find_bundle(model))
    sizes: dict[str, Any] = {"window": window, "stride": stride, "tokens": tokens, "progress": progress}
    if _is_bundle(against):
        reference = open_any(find_bundle(against))
        return measure_quality(candidate, reference, text, settings=settings, **sizes)
    return _compare_with_torch(candidate, against, text, settings, sizes)


def _is_bundle(source: str) -> bool:
    path = Path(source)
    if path.exists():
        return (path / MANIFEST_NAME).is_file() or (holds_graphs(path) and not _holds_weights(path))
    from .models.catalog import CATALOG

    return source in CATALOG and CATALOG[source].kind == "bundle"


def _holds_weights(path: Path) -> bool:
    """Whether a directory is a checkpoint of PyTorch's, whatever else lies there."""
    return path.is_dir() and any(file.suffix in (".safetensors", ".bin", ".pt", ".pth") for file in path.iterdir())


def _compare_with_torch(
    candidate: Bundle, source: str, text: EvaluationText, settings: SessionSettings, sizes: dict[str, Any]
) -> QualityReport:
    import torch  # here, since only this needs it

    from .models.checkpoint import open_checkpoint
    from .torch_reader import TorchReader

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    checkpoint = open_checkpoint(source)
    with TemporaryDirectory() as directory:
        tokenizer = Path(directory) / TOKENIZER_FILE
        tokenizer.write_bytes(checkpoint.files[TOKENIZER_FILE])
        ids = shared_ids(text, candidate.tokenizer_path, tokenizer)
    reader = BundleReader(candidate, settings)
    return compare_readers(reader, TorchReader(checkpoint), text, ids, **sizes)


def report_rows(report: QualityReport) -> list[tuple[str, str]]:
    """Names and values for people."""
    windows = f"windows of {report.window}" + ("" if report.stride == report.window else f" every {report.stride}")
    rows = [
        ("model", report.candidate),
        ("against", report.reference),
        ("text", f"{report.text} (sha256 {report.text_sha256[:12]}…), {report.tokens:,} tokens, {windows}"),
        (
            "perplexity",
            f"{report.perplexity:.4f} against {report.reference_perplexity:.4f}, ratio {report.perplexity_ratio:.4f}",
        ),
        ("mean KL", f"{report.mean_kl:.3g} nats, 99% of the positions below {report.kl_99th_percentile:.3g}"),
        ("top-1 agreement", f"{report.top1_agreement:.2%} of {len(report.kl):,} positions"),
        ("greedy agreement", f"{report.greedy_identical} of {report.greedy_tokens} tokens"),
    ]
    if errors := report.layer_errors:
        largest = max(range(len(errors)), key=errors.__getitem__)
        shown = f"{errors[0]:.3g} after the first, {errors[-1]:.3g} after the last block"
        rows.append(("layer errors", f"{shown}; largest {errors[largest]:.3g} after block {largest}"))
    return rows
