"""Commands that make, check and fetch models: export, quantize, verify, models, pull."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from .cli_options import RecipesCommand, given_fields, json_option, lora_option, recipe_options
from .runtime.errors import ParityError
from .runtime.memory import format_bytes
from .terminal import HouseCommand, Progress, needs_extra, note, print_json, progress_on_stderr

if TYPE_CHECKING:
    from .conforming import Part
    from .runtime.bundle import Bundle


@click.command(cls=HouseCommand)
@click.argument("source")
@click.option("--out", required=True, metavar="DIR", help="The bundle to make; must not exist.")
@click.option(
    "--operators",
    type=click.Choice(["fused", "standard"]),
    default="fused",
    show_default=True,
    help="fused: ONNX Runtime's own attention. standard: the ONNX domain alone.",
)
@click.option(
    "--target",
    type=click.Choice(["cpu", "cuda", "dml"]),
    default="cpu",
    show_default=True,
    help="What it shall run on: the processor, CUDA or DirectML.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Type of weights and cache; default: float32 for cpu, else float16.",
)
@click.option("--revision", metavar="REVISION", help="Branch, tag or commit of a hub model.")
@lora_option
@click.option("--tokenizer", metavar="DIR_OR_FILE", help="A tokenizer, instead of the checkpoint's own.")
@click.option("--keep-quantization", is_flag=True, help="Keep a GGUF file's blocks as they are.")
@click.option(
    "--via",
    type=click.Choice(["native", "optimum"]),
    default="native",
    show_default=True,
    help="optimum: any architecture that it knows; plainer graphs.",
)
@click.option("--force", is_flag=True, help="Replace the bundle at --out.")
def export(
    source: str,
    out: str,
    operators: str,
    target: str,
    dtype: str | None,
    revision: str | None,
    lora: tuple[str, ...],
    tokenizer: str | None,
    keep_quantization: bool,
    via: str,
    force: bool,
) -> None:
    """Make a bundle from a checkpoint, and prove it.

    SOURCE is a Hugging Face directory, a GGUF file, a checkpoint of nanoGPT
    or Megatron-LM (with --tokenizer), a hub id or a name that `onnxgpt
    models` lists. A bundle whose logits are not those of PyTorch is not
    written.

    \b
    onnxgpt export ./my-gpt2 --out my-bundle
    onnxgpt export smollm2-135m-instruct --out smol
    onnxgpt export ./my-gpt2 --target cuda --out fast
    onnxgpt export ./my-gpt2 --lora ./my-adapter=0.5 --out tuned
    onnxgpt export model-q4_1.gguf --keep-quantization --out small
    onnxgpt export ./my-falcon --via optimum --out falcon
    """
    if via == "optimum":
        given = {"--operators": operators != "fused", "--target": target != "cpu", "--dtype": dtype, "--lora": lora,
                 "--keep-quantization": keep_quantization}  # fmt: skip
        unfit = [option for option, value in given.items() if value]
        if unfit:
            raise click.UsageError(f"{unfit[0]} has no effect with --via optimum")
    with progress_on_stderr() as progress, needs_extra("export"):
        if via == "optimum":
            from .export import export_with_optimum

            bundle = export_with_optimum(
                source, out, revision=revision, tokenizer=tokenizer, force=force, progress=progress
            )
        else:
            bundle = _export_natively(
                source,
                out,
                dtype=dtype,
                target=target,
                operators=operators,
                revision=revision,
                lora=lora,
                tokenizer=tokenizer,
                keep_quantization=keep_quantization,
                force=force,
                progress=progress,
            )
    from .inspecting import parity_line, quality_line, recipe_line

    manifest = bundle.manifest
    if manifest.parity:
        note(f"{manifest.name}: {parity_line(manifest.parity)}")
    else:
        note(f"{manifest.name}: {recipe_line(manifest.quantization)}; {quality_line(manifest.quality)}")
    click.echo(out)


def _export_natively(
    source: str, out: str, *, lora: tuple[str, ...], keep_quantization: bool, progress: Progress | None, **options: Any
) -> Bundle:
    from .export import export_bundle
    from .models.lora import adapter_from_text

    judge = None
    if keep_quantization:
        from .keeping import judge_kept

        judge = partial(judge_kept, progress=progress)
    return export_bundle(
        source,
        out,
        lora=[adapter_from_text(text) for text in lora],
        keep_quantization=keep_quantization,
        judge=judge,
        progress=progress,
        **options,
    )


@click.command("import", cls=HouseCommand)
@click.argument("directory")
@click.option("--out", required=True, metavar="BUNDLE", help="The bundle to make; must not exist.")
@click.option("--force", is_flag=True, help="Replace the bundle at --out.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads; otherwise ONNX Runtime chooses.")
def import_bundle(directory: str, out: str, force: bool, threads: int | None) -> None:
    """Make a bundle of what another exporter wrote.

    DIRECTORY comes from optimum or onnxruntime-genai's builder, or is laid
    out for transformers.js; or it is one of several graphs there. It runs
    as it is: a bundle has a manifest and hashes besides. The graph stays
    the same.

    \b
    onnxgpt import ./optimum-export --out my-bundle
    onnxgpt import ./SmolLM2/onnx/model_q4.onnx --out smol-q4
    """
    with progress_on_stderr() as progress:
        from .runtime.foreign import import_directory

        bundle = import_directory(directory, out, force=force, threads=threads, progress=progress)
    graph = bundle.manifest.graph
    pieces = "in chunks" if graph.chunked_prefill else "in one piece"
    note(f"{bundle.manifest.name}: {graph.file}, laid out by {bundle.manifest.source['kind']}; reads prompts {pieces}")
    click.echo(out)


@click.command(cls=RecipesCommand)
@click.argument("bundle")
@click.option("--out", required=True, metavar="DIR", help="The bundle to make; must not exist.")
@click.option("--recipe", default="int8", show_default=True, metavar="NAME", help="One of those below.")
@click.option("--calibration", metavar="FILE", help="Text to calibrate on, otherwise one in the package.")
@click.option("--evaluation", metavar="FILE", help="Text to judge by, otherwise one in the package.")
@recipe_options
@click.option("--accept-quality", is_flag=True, help="Write the bundle even over the limit of its loss.")
@click.option("--force", is_flag=True, help="Replace the bundle at --out.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads; otherwise ONNX Runtime chooses.")
@json_option
def quantize(
    bundle: str,
    out: str,
    recipe: str,
    calibration: str | None,
    evaluation: str | None,
    accept_quality: bool,
    force: bool,
    threads: int | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Make a smaller, faster bundle from BUNDLE, and judge it.

    What was lost against BUNDLE is measured on a text and kept in the new
    bundle; one that lost more than its recipe allows is not written.
    Options that are not given come from the recipe.

    \b
    onnxgpt quantize my-bundle --out my-int8
    onnxgpt quantize my-bundle --out my-int4 --recipe int4 --layers 4:64
    """
    with progress_on_stderr() as progress, needs_extra("quantize"):
        from .inspecting import quality_line
        from .loading import find_bundle
        from .quantize import quantize_bundle
        from .runtime.bundle import Bundle

        source = Bundle.open(find_bundle(bundle))
        made = quantize_bundle(
            source.directory,
            out,
            recipe=recipe,
            calibration=calibration,
            evaluation=evaluation,
            force=force,
            accept_quality=accept_quality,
            threads=threads,
            progress=progress,
            **given_fields(fields),
        )
    manifest = made.manifest
    sizes = f"weights {format_bytes(source.weight_bytes)} before, {format_bytes(made.weight_bytes)} now"
    note(f"{manifest.name}: {quality_line(manifest.quality)}; {sizes}")
    if as_json:
        print_json(
            {
                "bundle": out,
                "quantization": manifest.quantization,
                "quality": manifest.quality,
                "bytes": {"weights": made.weight_bytes, "weights_before": source.weight_bytes},
            }
        )
    else:
        click.echo(out)


@click.command(cls=HouseCommand)
@click.argument("bundle")
@click.option("--against", metavar="SOURCE", help="Prove parity with this checkpoint again (needs PyTorch).")
@click.option("--revision", metavar="REVISION", help="Branch, tag or commit of a hub model.")
@lora_option
@click.option("--vectors", "with_vectors", is_flag=True, help="Compute a packaged bundle's vectors anew, here.")
@json_option
def verify(
    bundle: str, against: str | None, revision: str | None, lora: tuple[str, ...], with_vectors: bool, as_json: bool
) -> None:
    """Check that BUNDLE is what was written.

    Every file's size and SHA-256 are compared with the manifest's. With
    --against, PyTorch and the bundle are compared once more, too. With
    --vectors, what this machine computes is compared with what is written in
    vectors.json, which `onnxgpt package` makes.

    \b
    onnxgpt verify my-bundle
    onnxgpt verify my-package --vectors
    onnxgpt verify my-bundle --against ./my-gpt2
    """
    from .inspecting import parity_line, quality_line
    from .loading import find_bundle
    from .runtime.bundle import Bundle

    if revision is not None and against is None:
        raise click.UsageError("--revision has no effect without --against")
    if lora and against is None:
        raise click.UsageError("--lora has no effect without --against")
    opened = Bundle.open(find_bundle(bundle))
    if against is not None and opened.manifest.quantization is not None:
        raise click.UsageError(
            f"{bundle} is quantized, so it can't have parity with {against}: "
            f"judge it with onnxgpt score --model {bundle} --against {against}"
        )
    opened.verify_hashes()
    report = None
    if against is not None:
        with progress_on_stderr() as progress, needs_extra("export"):
            from .export import prove_against_source
            from .models.lora import adapter_from_text

            adapters = [adapter_from_text(text) for text in lora]
            report = prove_against_source(opened, against, revision=revision, lora=adapters, progress=progress)
    parts = _checked_vectors(opened) if with_vectors else []
    files = opened.manifest.files
    parity = None if report is None else report.to_dict()
    if as_json:
        checked = {"vectors": [asdict(part) for part in parts]} if with_vectors else {}
        print_json({"files": {name: asdict(record) for name, record in files.items()}, "parity": parity} | checked)
    else:
        size = format_bytes(sum(record.size for record in files.values()))
        click.echo(f"{opened.manifest.name}: {len(files)} files, {size}, as they were written")
        if parity is not None:
            click.echo(f"{opened.manifest.name}: {parity_line(parity)}")
        if opened.manifest.quality:
            click.echo(f"{opened.manifest.name}: {quality_line(opened.manifest.quality)}, when it was quantized")
        for part in parts:
            click.echo(part.line())
    if report is not None and not report.passed:
        raise ParityError(f"{opened.manifest.name} is not {against}: {'; '.join(report.failures())}")
    if wrong := [part.name for part in parts if part.failures]:
        raise ParityError(
            f"{opened.manifest.name} does not compute its vectors on this machine ({', '.join(wrong)}): "
            "copy the bundle again, or report this machine's processor and ONNX Runtime"
        )


def _checked_vectors(bundle: Bundle) -> list[Part]:
    """What comes of a bundle's vectors on this machine."""
    from .conforming import check_vectors, read_vectors
    from .runtime.model import Model

    vectors = read_vectors(bundle.directory)
    return check_vectors(Model.load(bundle.directory, provider="cpu"), vectors)


@click.command(cls=HouseCommand)
@json_option
@click.option("--markdown", is_flag=True, help="The table of families as Markdown, alone.")
def models(as_json: bool, markdown: bool) -> None:
    """List the models that have names, and the known families.

    A checkpoint's family is the model_type of its config.json. Each can be
    exported, quantized, merged with LoRA adapters, and some be read from GGUF.
    Other families go through optimum: onnxgpt export DIR --via optimum.
    """
    from .inspecting import catalogue, families, families_as_markdown

    if as_json and markdown:
        raise click.UsageError("--json and --markdown are two forms of one output: give one of them")
    if markdown:
        click.echo(families_as_markdown(), nl=False)
        return
    entries, known = catalogue(), families()
    if as_json:
        print_json({"models": entries, "families": known})
        return
    for entry in entries:
        kind = " ".join(filter(None, (entry["quantization"], entry["kind"])))
        click.echo(f"{entry['name']}  {kind}, {entry['license']}")
        click.echo(f"    {entry['description']}")
        click.echo(f"    {entry['location'] or 'not here yet: onnxgpt pull ' + entry['name']}")
    click.echo("families that can be exported (* also from GGUF):")
    width = max(len(family["model_type"]) for family in known)
    for family in known:
        limits = f" ({family['limits']})" if family["limits"] else ""
        click.echo(f"  {family['model_type']:<{width}} {'*' if family['gguf'] else ' '} {family['known_as']}{limits}")
    click.echo(f"  {'training files':<{width}}   nanoGPT's ckpt.pt, Megatron-LM's model_optim_rng.pt")


@click.command(cls=HouseCommand)
@click.argument("name")
def pull(name: str) -> None:
    """Fetch a model by its name.

    What was fetched is checked by its SHA-256 and kept in the user's
    cache; where it lies is printed.

    \b
    onnxgpt pull smollm2-135m-instruct
    """
    from .models.catalog import pull as pull_model

    with progress_on_stderr() as progress:
        path = pull_model(name, progress=progress)
    click.echo(str(path))
