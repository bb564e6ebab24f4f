"""PyTorch to bundle. Importing this package loads no torch; exporting does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint
    from ..models.lora import LoraChoice
    from ..runtime.bundle import Bundle
    from .parity import ParityReport

__all__ = ["export_bundle", "prove_parity"]


def export_bundle(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    operators: str = "fused",
    revision: str | None = None,
    lora: Sequence[LoraChoice] = (),
    tokenizer: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Callable[[str, float | None], None] | None = None,
) -> Bundle:
    """Export a checkpoint to a bundle in the directory `out`, and prove it through the runtime.

    Args:
        source: a Hugging Face directory, a GGUF file, a catalogue name or a hub id.
        out: the bundle's directory, which is written whole or not at all.
        dtype: of weights, cache and logits; float32.
        operators: `fused` for ONNX Runtime, fast; `standard` for any backend, nodes of the ONNX domain (opset 18) only.
        revision: a branch, tag or commit of a hub id.
        lora: adapters in PEFT's layout to merge, in this order: directories, or pairs of a directory and a scale.
        tokenizer: a directory that holds a tokenizer, or a `tokenizer.json`, instead of the checkpoint's own.
        force: replace an existing bundle.
        progress: called with what is being done and the fraction of it that is done, or None.

    Raises:
        OptionError: an option that is unknown or not built yet.
        OutputExistsError: `out` exists and `force` is false.
        SourceNotFoundError, CheckpointError, UnsupportedModelError, DownloadError: the source can't be opened.
        ExportError: the graph could not be made.
        ParityError: it was made and does not compute what PyTorch computes; nothing was written.
    """
    from .pipeline import export_source

    return export_source(
        source,
        out,
        dtype=dtype,
        operators=operators,
        revision=revision,
        lora=lora,
        tokenizer=tokenizer,
        force=force,
        progress=progress,
    )


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
