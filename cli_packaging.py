"""Commands that make what other languages run: package."""

from __future__ import annotations

import click

from .runtime.memory import format_bytes
from .terminal import HouseCommand, needs_extra, note, progress_on_stderr


@click.command("package", cls=HouseCommand)
@click.argument("bundle")
@click.option("--out", required=True, metavar="DIR", help="The bundle to make; must not exist.")
@click.option("--force", is_flag=True, help="Replace the bundle at --out.")
def package_command(bundle: str, out: str, force: bool) -> None:
    """Make a bundle that programs in any language run.

    DIR is BUNDLE with files added. generate.onnx is a whole generation in one
    call of ONNX Runtime: prompt ids and settings in, generated ids out.
    text.onnx is the same with the tokenizer inside: bytes in, bytes out. Both
    share the weights of model.onnx.

    \b
    onnxgpt package smol-int8 --out smol-packaged
    """
    with progress_on_stderr() as progress, needs_extra("quantize"):
        from .export.package import package_bundle
        from .export.package.generate_graph import left_out_options
        from .loading import find_bundle
        from .runtime.bundle import PACKAGED_FILES
        from .runtime.model import generation_defaults

        made = package_bundle(find_bundle(bundle), out, force=force, progress=progress)
        left_out = left_out_options(generation_defaults(made))
    files = made.manifest.files
    added = [f"{name} ({format_bytes(files[name].size)})" for name in sorted(PACKAGED_FILES & files.keys())]
    note(f"{made.manifest.name}: with {', '.join(added)}")
    if left_out:
        note(f"generate.onnx has no {', '.join(left_out)}, which this bundle's generation_config.json sets")
    click.echo(out)
