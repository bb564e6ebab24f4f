"""A GGUF file becomes a bundle that keeps its quantization: proven in full precision, then put into its own blocks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..graphs.kernel_check import require_kernels
from ..graphs.lifting import computable
from ..graphs.precision import to_half
from ..graphs.targets import CPU_FLOAT32, GraphForm, graph_form
from ..graphs.writing import write_model
from ..models.checkpoint import Checkpoint, open_checkpoint
from ..runtime.bundle import Bundle, refuse_existing, seal, staged_output
from ..runtime.errors import OptionError
from ..runtime.manifest import MANIFEST_NAME, Manifest
from .kept_blocks import keep_blocks, refuse_nothing_to_keep
from .parity import Progress
from .pipeline import export_checkpoint

Judge = Callable[[Bundle, Bundle], dict[str, Any]]  # the quality report of a candidate against a reference


def export_source_kept(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: str | None,
    target: str,
    operators: str,
    revision: str | None,
    tokenizer: str | os.PathLike[str] | None,
    judge: Judge,
    force: bool,
    progress: Progress | None,
) -> Bundle:
    """See `onnxgpt.export.export_bundle`, of whose options these are the ones that a GGUF file may be given."""
    form = graph_form(target, operators, dtype)
    if form.operators != "fused":
        raise OptionError(
            f"operators {operators} has no products by blocks: keep the quantization with fused ones, or not at all"
        )
    refuse_existing(out, force=force)
    if progress is not None:
        progress(f"opening {source}", None)
    text = source if isinstance(source, str) else Path(source)
    checkpoint = open_checkpoint(text, revision=revision, tokenizer=None if tokenizer is None else Path(tokenizer))
    return export_kept(checkpoint, out, judge=judge, form=form, force=force, progress=progress)


def export_kept(
    checkpoint: Checkpoint,
    out: str | os.PathLike[str],
    *,
    judge: Judge,
    form: GraphForm = CPU_FLOAT32,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Export an opened GGUF file with its own blocks; errors as `onnxgpt.export.export_bundle`.

    The dequantized model is exported and proven first in float32, beside what is being written: it is what the blocks
    are put into, and the judge's reference. In half precision the blocks stay as they are, and their scales are in the
    half type: float16 holds those of Q8_0, Q4_0 and Q4_1, which the file has in float16, exactly.
    """
    refuse_nothing_to_keep(checkpoint)
    with staged_output(out, force=force) as directory:
        reference = export_checkpoint(
            checkpoint, directory / "full-precision", form=replace(form, dtype="float32"), progress=progress
        )
        if progress is not None:
            progress("putting in the file's own blocks", None)
        manifest = _write_kept(reference, checkpoint, form, directory)
        with computable(Bundle(directory, manifest)) as candidate:
            quality = judge(candidate, reference)
        shutil.rmtree(reference.directory)
        seal(directory, replace(manifest, quality=quality))
    return Bundle.open(out)


def _write_kept(reference: Bundle, checkpoint: Checkpoint, form: GraphForm, directory: Path) -> Manifest:
    """The graph in blocks and everything else but the manifest, which is returned as it is before judging."""
    manifest = reference.manifest
    model = ir.load(reference.graph_path)
    kept = keep_blocks(model, manifest.matrices, checkpoint)
    to_half(model, form.dtype)
    advice = "leave out --keep-quantization, and quantize the bundle"
    require_kernels(model, form.target.name, advice=advice)
    write_model(model, directory)
    for name in manifest.files:
        if name != MANIFEST_NAME and not name.startswith(manifest.graph.file):
            shutil.copyfile(reference.directory / name, directory / name)
    # Parity is full precision's; the quality report takes its place.
    name = f"{manifest.name}-kept"
    graph = replace(manifest.graph, dtype=form.dtype, target=form.target.name)
    return replace(manifest, name=name, graph=graph, quantization=kept.to_dict(), parity=None, matrices=())
