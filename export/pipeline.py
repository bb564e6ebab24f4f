"""A checkpoint becomes a bundle: exported, written, opened again and proven, or not there at all."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .._version import __version__
from ..graphs.kernel_check import require_kernels
from ..graphs.targets import CPU_FLOAT32, GraphForm, graph_form
from ..graphs.writing import write_model
from ..models.checkpoint import Checkpoint, build_gpt, open_checkpoint
from ..models.lora import LoraChoice
from ..runtime.bundle import GRAPH_FILE, TOKENIZER_FILE, Bundle, refuse_existing, seal, staged_output
from ..runtime.errors import CheckpointError, ParityError
from ..runtime.manifest import GraphRecord, Manifest
from .genai import FILE as GENAI_FILE
from .genai import genai_config
from .graph import ExportedGraph, export_graph
from .matrices import describe_matrices
from .parity import WIDENED_ABOVE, ParityReport, Progress, prove_parity


def export_source(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: str | None,
    target: str,
    operators: str,
    revision: str | None,
    lora: Sequence[LoraChoice],
    tokenizer: str | os.PathLike[str] | None,
    force: bool,
    progress: Progress | None,
) -> Bundle:
    """See `onnxgpt.export.export_bundle`."""
    form = graph_form(target, operators, dtype)
    refuse_existing(out, force=force)
    _report(progress, f"opening {source}")
    text = source if isinstance(source, str) else Path(source)
    checkpoint = open_checkpoint(
        text, revision=revision, lora=lora, tokenizer=None if tokenizer is None else Path(tokenizer)
    )
    return export_checkpoint(checkpoint, out, form=form, force=force, progress=progress)


def export_checkpoint(
    checkpoint: Checkpoint,
    out: str | os.PathLike[str],
    *,
    form: GraphForm = CPU_FLOAT32,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Export an opened checkpoint; errors as `onnxgpt.export.export_bundle`."""
    if TOKENIZER_FILE not in checkpoint.files:
        raise CheckpointError(
            f"{checkpoint.name} carries no tokenizer: give the one it was trained with (--tokenizer DIR_OR_FILE); "
            "a pickled one, as nanoGPT's meta.pkl, is never opened"
        )
    with staged_output(out, force=force) as directory:
        widened_above = WIDENED_ABOVE.get(form.dtype)
        manifest, report = _write_proven(checkpoint, directory, form, widened_above, progress)
        if widened_above is not None and (report.overflows or report.largest > widened_above):
            _report(progress, f"{form.dtype} loses too much: keeping the residual stream in float32")
            form = replace(form, wide_residual=True)
            for path in directory.iterdir():  # not written over, since a session may map it still
                path.unlink()
            manifest, report = _write_proven(checkpoint, directory, form, None, progress)
        if not report.passed:
            raise refused(report, checkpoint.name, form)
        seal(directory, replace(manifest, parity=report.to_dict()))
    return Bundle.open(out)


def _write_proven(
    checkpoint: Checkpoint, directory: Path, form: GraphForm, stop_above: float | None, progress: Progress | None
) -> tuple[Manifest, ParityReport]:
    """Write everything but the manifest, and prove it; see `prove_parity`."""
    _report(progress, "exporting the graph")
    manifest = _write(checkpoint, directory, form, progress)
    bundle = Bundle(directory, manifest)
    return manifest, prove_parity(bundle, checkpoint, stop_above=stop_above, progress=progress)


def refused(report: ParityReport, name: str, form: GraphForm) -> ParityError:
    """What is said of a graph that did not pass: a half type whose range it left, or that it is another model."""
    if report.overflows and form.dtype != "float32":
        where = ", ".join(case.name for case in report.cases if case.overflows)
        what = report.beyond or f"its logits are not finite ({where})"
        return ParityError(
            f"{name} overflows {form.dtype}: {what}; no bundle was written: "
            f"export {form.target.wider_than(form.operators, form.dtype)}"
        )
    return ParityError(f"the exported graph is not {name}: {'; '.join(report.failures())}; no bundle was written")


def _write(checkpoint: Checkpoint, directory: Path, form: GraphForm, progress: Progress | None) -> Manifest:
    """Everything but the proof. The graph and what it holds of PyTorch's are let go on return."""
    config = checkpoint.config
    exported = export_graph(build_gpt(checkpoint), form)
    manifest = Manifest(
        name=checkpoint.name,
        graph=_graph_record(exported, form),
        architecture=config.to_dict(),
        source=checkpoint.source,
        matrices=describe_matrices(exported.model.graph, config),
        created_by=f"onnxgpt {__version__}",
    )
    _report(progress, "writing the weights")
    elsewhere = "export it for another target, such as --target cpu"
    require_kernels(exported.model, manifest.graph.target, advice=elsewhere)  # of the graph as it is written
    write_model(exported.model, directory)
    for name, content in checkpoint.files.items():
        (directory / name).write_bytes(content)
    generation = json.loads(checkpoint.files.get("generation_config.json", b"{}"))
    text = genai_config(config, generation, form.target, shares_cache_buffer=exported.shares_cache_buffer)
    (directory / GENAI_FILE).write_text(text, encoding="utf-8")
    return manifest


def _graph_record(exported: ExportedGraph, form: GraphForm) -> GraphRecord:
    graph = exported.model.graph
    # One in a type that the target has no kernels for is made to be worked on, and runs on the CPU meanwhile.
    fits = form.dtype in form.target.dtypes[form.operators]
    return GraphRecord(
        file=GRAPH_FILE,
        dtype=form.dtype,
        operators=form.operators,
        target=form.target.name if fits else "cpu",
        wide_residual=form.wide_residual,
        shares_cache_buffer=exported.shares_cache_buffer,
        chunked_prefill=form.target.chunked_prefill or not exported.shares_cache_buffer,
        inputs=tuple(str(value.name) for value in graph.inputs),
        outputs=tuple(str(value.name) for value in graph.outputs),
    )


def _report(progress: Progress | None, message: str) -> None:
    if progress is not None:
        progress(message, None)
