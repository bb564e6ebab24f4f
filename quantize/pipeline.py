"""A bundle becomes a smaller bundle: calibrated, rounded, written, judged against the first, or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .._version import __version__
from ..graphs.kernel_check import require_kernels
from ..graphs.lifting import computable, is_half, lift_bundle
from ..graphs.plain_blocks import spell_out_blocks
from ..graphs.precision import to_half
from ..graphs.targets import TARGETS, Dtype, choices
from ..graphs.writing import write_model
from ..runtime.bundle import GRAPH_FILE, PACKAGED_FILES, Bundle, refuse_existing, seal, staged_output
from ..runtime.errors import QualityError, QuantizationError
from ..runtime.manifest import MANIFEST_NAME, GraphRecord, Manifest
from .blockwise import put_into_blocks
from .calibration import record_inputs
from .dynamic import multiply_integers
from .kv_cache import find_attentions, shrink_cache
from .layerwise import Changes, LayerQuantizer
from .planning import Planner, make_planner, needs_plan
from .recipe import BlockRecipe, Kind, QuantRecipe, Record
from .segments import SegmentedReading
from .static import quantize_around_products

_REWRITES: dict[Kind, Callable[[ir.Model, Sequence[Record], Changes[Any]], None]] = {
    "blocks": put_into_blocks,
    "dynamic": multiply_integers,
    "static": quantize_around_products,
    "none": lambda *_: None,
}

Progress = Callable[[str, float | None], None]
_LIFTED = "full-precision"  # a folder beside what is being written
_MOMENTS_AT_ONCE = 64 << 20  # bytes of second moments in memory; further layers wait for the next segment


def quantize_to(
    bundle: Bundle,
    out: str | os.PathLike[str],
    recipe: QuantRecipe[Any],
    windows: Sequence[NDArray[np.int64]],
    *,
    judge: Callable[[Bundle], tuple[dict[str, object], float]],
    force: bool = False,
    accept_quality: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Quantize a full-precision bundle; errors as `onnxgpt.quantize.quantize_bundle`.

    One in half precision is lifted to float32, in which everything is calibrated and rounded; what comes of it is in
    the bundle's own type again, and is judged in it where a provider here computes in it.

    Args:
        windows: calibration text, token ids int64 [window] each.
        judge: the report and the mean KL divergence of a candidate.
    """
    refuse_existing(out, force=force)
    refuse_unfit(bundle, recipe)
    target = TARGETS[bundle.manifest.graph.target]
    if target.whole_blocks and isinstance(recipe, BlockRecipe):
        recipe = replace(recipe, whole_blocks=True)
    with staged_output(out, force=force) as directory:
        _copy_rest(bundle, directory)
        full = lift_bundle(bundle, directory / _LIFTED) if is_half(bundle.manifest.graph) else bundle
        records = [] if recipe.kind == "none" else _records(bundle)
        planner = _planner(full, recipe, records, windows, threads, progress)
        plan: QuantRecipe[Any] | None = recipe if planner is None else planner.first()
        while plan is not None:
            _write_quantized(full, bundle.manifest.graph, directory, plan, records, windows, threads, progress)
            manifest = _manifest(bundle, plan)
            with computable(Bundle(directory, manifest)) as candidate:
                report, divergence = judge(candidate)
            if divergence <= recipe.max_kl or planner is None:
                break
            plan = planner.next(divergence)
        if divergence > recipe.max_kl and not accept_quality:
            raise QualityError(
                f"{recipe.name} is {divergence:.4f} nats (mean KL) from full precision, its limit is {recipe.max_kl}: "
                "no bundle was written; choose more bits or smaller blocks, or take it with --accept-quality"
            )
        shutil.rmtree(directory / _LIFTED, ignore_errors=True)
        seal(directory, replace(manifest, quality=report))
    return Bundle.open(out)


def refuse_unfit(bundle: Bundle, recipe: QuantRecipe[Any]) -> None:
    """Raise QuantizationError for a bundle that is quantized already, or whose operators the recipe can't use."""
    manifest = bundle.manifest
    target = TARGETS[manifest.graph.target]
    if manifest.quantization is not None:
        raise QuantizationError(
            f"{bundle.directory} is quantized already ({manifest.quantization.get('name')}): "
            "quantize its full-precision bundle instead"
        )
    if manifest.graph.foreign and not manifest.matrices:
        raise QuantizationError(
            f"{bundle.directory} was exported by others ({manifest.source.get('kind')}), and their graphs are run as "
            "they are: make a bundle of the model's checkpoint with onnxgpt export SOURCE --out DIR, and quantize that"
        )
    if manifest.graph.foreign:
        if not isinstance(recipe, BlockRecipe) or needs_plan(recipe) or recipe.kv_cache is not None:
            raise QuantizationError(
                f"{bundle.directory} has a graph of others, of which only the products are known: {recipe.name} needs "
                "more; choose int8"
            )
    elif recipe.name not in target.recipes or (recipe.kv_cache is not None and "cache" not in target.recipes):
        cache = " with an 8-bit cache" if recipe.name in target.recipes else ""
        raise QuantizationError(
            f"{bundle.directory} was made for {target.name}, which has no kernels for {recipe.name}{cache}: choose "
            f"{choices(target.recipes)}{cache and ' without it'}"
        )
    elif manifest.graph.operators != recipe.operators:
        location = manifest.source.get("location") or "SOURCE"
        elsewhere = "" if target.name == "cpu" else f" --target {target.name}"
        raise QuantizationError(
            f"{bundle.directory} has {manifest.graph.operators} operators, {recipe.name} takes {recipe.operators}: "
            f"make such a bundle with onnxgpt export {location} --operators {recipe.operators}{elsewhere} --out DIR"
        )
    if recipe.kv_cache is not None:
        find_attentions(ir.load(bundle.graph_path))


def _write_quantized(
    full: Bundle,
    graph: GraphRecord,
    directory: Path,
    recipe: QuantRecipe[Any],
    records: Sequence[Record],
    windows: Sequence[NDArray[np.int64]],
    threads: int | None,
    progress: Progress | None,
) -> None:
    """Quantize a float32 bundle into `directory`, in the type and for the target that `graph` names."""
    model = ir.load(full.graph_path)
    changes = _quantize_all(model, full, records, recipe, windows, threads, progress)
    _REWRITES[recipe.kind](model, records, changes)
    target = TARGETS[graph.target]
    if target.spells_out_blocks:
        spell_out_blocks(model)
    if progress is not None:
        progress("writing the weights", None)
    if recipe.kv_cache is not None:  # what is cached is measured in float32, beside what is written
        measured = directory if full.manifest.graph is graph else full.directory / "measured"
        measured.mkdir(exist_ok=True)
        write_model(model, measured)
        shrink_cache(model, measured, windows, threads=threads, progress=progress)
    to_half(model, cast(Dtype, graph.dtype), wide_residual=graph.wide_residual)
    require_kernels(model, target.name, advice=f"choose another recipe than {recipe.name}, or a bundle for the CPU")
    if recipe.kv_cache is None or full.manifest.graph is not graph:
        write_model(model, directory)


def _records(bundle: Bundle) -> list[Record]:
    """The matrices that are quantized; positions, a small table, stay as they are."""
    records: list[Record] = [record for record in bundle.manifest.matrices if record["role"] != "position_embedding"]
    graph = bundle.manifest.graph
    if graph.operators != "fused" or TARGETS[graph.target].looks_up_blocks:
        return records
    tables = {record["initializer"] for record in records if record["role"] == "token_embedding"}
    return [record for record in records if record["initializer"] not in tables]


def _planner(
    full: Bundle,
    recipe: QuantRecipe[Any],
    records: Sequence[Record],
    windows: Sequence[NDArray[np.int64]],
    threads: int | None,
    progress: Progress | None,
) -> Planner | None:
    """Measures what each matrix bears, where the recipe asks for it."""
    if not isinstance(recipe, BlockRecipe) or not needs_plan(recipe):
        return None
    model = ir.load(full.graph_path)
    return make_planner(model, full.directory, recipe, records, windows, threads=threads, progress=progress)


def _quantize_all(
    model: ir.Model,
    bundle: Bundle,
    records: Sequence[Record],
    recipe: QuantRecipe[Any],
    windows: Sequence[NDArray[np.int64]],
    threads: int | None,
    progress: Progress | None,
) -> Changes[Any]:
    quantizer = LayerQuantizer(model.graph, recipe, bundle.manifest.architecture)
    reading = SegmentedReading(model, bundle.directory, windows, threads)
    chosen = _without_tied_embedding(records)
    done = 0
    for group in _groups(chosen):
        if progress is not None:
            progress("reading the calibration text", done / len(chosen))
        inputs = {record["initializer"]: _input_name(model, record) for record in group if _is_product(record)}
        statistics = record_inputs(reading, inputs, recipe.samples_per_window) if inputs else {}
        for unit in _units(group):
            for name in quantizer.quantize(unit, statistics):
                done += 1
                if progress is not None:
                    progress(f"quantizing {name}", done / len(chosen))
    return quantizer.changes


def _without_tied_embedding(records: Sequence[Record]) -> list[Record]:
    """A matrix that is both embedding and head is quantized as the head."""
    heads = {record["initializer"] for record in records if record["role"] == "head"}
    return [record for record in records if record["role"] != "token_embedding" or record["initializer"] not in heads]


def _units(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Runs of records of the same layer; embedding and head each by itself."""
    unit: list[Record] = []
    for record in records:
        if unit and (record["layer"] is None or record["layer"] != unit[0]["layer"]):
            yield unit
            unit = []
        unit.append(record)
    if unit:
        yield unit


def _groups(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Units whose second moments are in memory together."""
    group: list[Record] = []
    size = 0
    for unit in _units(records):
        needed = sum(4 * record["shape"][0] ** 2 for record in unit if _is_product(record))
        if group and size + needed > _MOMENTS_AT_ONCE:
            yield group
            group, size = [], 0
        group += unit
        size += needed
    yield group


def _is_product(record: Record) -> bool:
    return not record["role"].endswith("_embedding")


def _input_name(model: ir.Model, record: Record) -> str:
    node = next(node for node in model.graph if node.name == record["node"])
    assert node.inputs[0] is not None
    return str(node.inputs[0].name)


def _copy_rest(bundle: Bundle, directory: Path) -> None:
    """Everything but graph, weights and manifest, and what was made of those."""
    for name in bundle.manifest.files:
        if name not in (MANIFEST_NAME, *PACKAGED_FILES) and not name.startswith(bundle.manifest.graph.file):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.directory / name, directory / name)


def _manifest(bundle: Bundle, recipe: QuantRecipe[Any]) -> Manifest:
    manifest = bundle.manifest
    return replace(
        manifest,
        name=f"{manifest.name}-{recipe.name}",
        graph=replace(manifest.graph, file=GRAPH_FILE),
        quantization=recipe.to_dict(),
        parity=None,  # it is full precision's; the quality report takes its place
        matrices=(),
        created_by=f"onnxgpt {__version__}",
    )
