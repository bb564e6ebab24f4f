"""PyTorch to bundle. Importing this package loads no torch; exporting does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint
    from ..models.lora import LoraChoice
    from ..runtime.bundle import Bundle
    from .parity import ParityReport

__all__ = ["export_bundle", "export_with_optimum", "prove_against_source", "prove_parity"]


def export_bundle(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    target: str = "cpu",
    operators: str = "fused",
    revision: str | None = None,
    lora: Sequence[LoraChoice] = (),
    tokenizer: str | os.PathLike[str] | None = None,
    keep_quantization: bool = False,
    judge: Callable[[Bundle, Bundle], dict[str, Any]] | None = None,
    force: bool = False,
    progress: Callable[[str, float | None], None] | None = None,
) -> Bundle:
    """Export a checkpoint to a bundle in the directory `out`, and prove it through the runtime.

    Args:
        source: a Hugging Face directory, a GGUF file, a checkpoint of nanoGPT or Megatron-LM, a catalogue name or a
            hub id.
        out: the bundle's directory, which is written whole or not at all.
        dtype: of weights, cache and logits: `float32`, `float16` or `bfloat16`; None: what suits the target, which is
            float32 on `cpu` and float16 elsewhere.
        target: the execution provider that the graph is for: `cpu`, `cuda` or `dml`; see `onnxgpt.graphs.targets`.
        operators: `fused` for ONNX Runtime, fast; `standard` for any backend, nodes of the ONNX domain (opset 18) only.
        revision: a branch, tag or commit of a hub id.
        lora: adapters in PEFT's layout to merge, in this order: directories, or pairs of a directory and a scale.
        tokenizer: a directory that holds a tokenizer, or a `tokenizer.json`, instead of the checkpoint's own.
        keep_quantization: keep a GGUF file's blocks (Q8_0, Q4_0, Q4_1, …) as they are, instead of float32 weights.
        judge: with `keep_quantization`, gives the quality report of a bundle against the dequantized one; every
            quantized bundle has one. `onnxgpt.keeping.judge_kept` is meant for that.
        force: replace an existing bundle.
        progress: called with what is being done and the fraction of it that is done, or None.

    Raises:
        OptionError: an option that is unknown, or that the target has no kernels for.
        OutputExistsError: `out` exists and `force` is false.
        SourceNotFoundError, CheckpointError, UnsupportedModelError, DownloadError: the source can't be opened.
        ExportError: the graph could not be made.
        ParityError: it was made and does not compute what PyTorch computes; nothing was written.
    """
    if keep_quantization or judge is not None:
        return _export_kept(
            source,
            out,
            keep_quantization,
            judge,
            lora,
            dtype=dtype,
            target=target,
            operators=operators,
            revision=revision,
            tokenizer=tokenizer,
            force=force,
            progress=progress,
        )
    from .pipeline import export_source

    return export_source(
        source,
        out,
        dtype=dtype,
        target=target,
        operators=operators,
        revision=revision,
        lora=lora,
        tokenizer=tokenizer,
        force=force,
        progress=progress,
    )


def _export_kept(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    keep_quantization: bool,
    judge: Callable[[Bundle, Bundle], dict[str, Any]] | None,
    lora: Sequence[LoraChoice],
    **options: Any,
) -> Bundle:
    from ..runtime.errors import OptionError

    if judge is None or not keep_quantization:
        raise OptionError(
            "keep_quantization and judge belong together: give both (judge=onnxgpt.keeping.judge_kept) or none"
        )
    if lora:
        raise OptionError(
            "adapters change the weights, so the file's quantization can't be kept: leave out one of the two"
        )
    from .keeping import export_source_kept

    return export_source_kept(source, out, judge=judge, **options)


def export_with_optimum(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    revision: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Callable[[str, float | None], None] | None = None,
) -> Bundle:
    """Export a model of any architecture that optimum knows, and prove it against transformers through the runtime.

    The graph is optimum's, float32: it has no fused operators, and rows of a batch are computed one by one. A family
    that `export_bundle` knows is better exported by it.

    Args:
        source: a Hugging Face directory or a hub id.
        out: the bundle's directory, which is written whole or not at all.
        revision: a branch, tag or commit of a hub id.
        tokenizer: a directory that holds a tokenizer, or a `tokenizer.json`, instead of the checkpoint's own.
        force: replace an existing bundle.
        progress: called with what is being done and the fraction of it that is done, or None.

    Raises:
        OptionError: a revision for something that is not on a hub.
        OutputExistsError: `out` exists and `force` is false.
        SourceNotFoundError, CheckpointError, DownloadError: the source can't be opened.
        UnsupportedModelError: an architecture that optimum does not know, or that is no GPT.
        ExportError: optimum is not installed, or failed.
        ParityError: the graph does not compute what transformers computes; nothing was written.
    """
    from .optimum_route import export_with_optimum as export

    return export(source, out, revision=revision, tokenizer=tokenizer, force=force, progress=progress)


def prove_against_source(
    bundle: Bundle,
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    lora: Sequence[LoraChoice] = (),
    progress: Callable[[str, float | None], None] | None = None,
) -> ParityReport:
    """Compare a bundle with a checkpoint, run by our own GPT, or by transformers where optimum exported the bundle.

    Raises:
        OptionError: adapters with a bundle that optimum exported.
        SourceNotFoundError, CheckpointError, UnsupportedModelError, DownloadError: the source can't be opened.
        ParityError: the bundle's architecture is another than the checkpoint's.
        BundleError: the bundle's graph can't be loaded.
    """
    from pathlib import Path

    from ..runtime.errors import OptionError

    if bundle.manifest.source.get("via") is None:
        from ..models.checkpoint import open_checkpoint

        text = source if isinstance(source, str) else Path(source)
        return prove_parity(bundle, open_checkpoint(text, revision=revision, lora=lora), progress=progress)
    if lora:
        raise OptionError(f"{bundle.manifest.name} was exported by optimum, which merges no adapters: leave them out")
    from .optimum_route import prove_optimum_parity

    return prove_optimum_parity(bundle, source, revision=revision, progress=progress)


def prove_parity(
    bundle: Bundle, checkpoint: Checkpoint, *, progress: Callable[[str, float | None], None] | None = None
) -> ParityReport:
    """Compare a bundle with the checkpoint it came from, run by PyTorch. The report says whether it passed.

    Raises:
        ParityError: the bundle's architecture is another than the checkpoint's.
        BundleError: the bundle's graph can't be loaded.
    """
    from .parity import prove_parity as prove

    return prove(bundle, checkpoint, progress=progress)
