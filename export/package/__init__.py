"""What other languages run: graphs that need nothing of this house, made without PyTorch."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.bundle import PACKAGED_FILES, Bundle, refuse_existing, seal, staged_output
from ...runtime.errors import BundleError, UnsupportedTokenizerError
from ...runtime.manifest import MANIFEST_NAME
from .contract import CONTRACT_FILE, write_contract
from .generate_graph import refuse_unfit, write_generate_graph
from .text_graph import TEXT_FILE, write_text_graph
from .vectors import VECTORS_FILE, write_vectors

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Packaging:
    """What a writer is given: the bundle, and the copy of it that the files are added to."""

    bundle: Bundle
    directory: Path
    defaults: dict[str, Any]  # of generation
    progress: Progress | None = None


def _write_text(package: Packaging) -> None:
    """Write text.onnx; say why not when the tokenizer can't be written as a graph, and leave the rest as it is."""
    try:
        write_text_graph(package.directory)
    except UnsupportedTokenizerError as error:
        logging.getLogger("onnxgpt").warning("%s is left out: %s", TEXT_FILE, error)


def _write_vectors(package: Packaging) -> None:
    from ...runtime.model import Model  # here, so that command lines that make no package start faster

    write_vectors(Model.load(package.bundle.directory, provider="cpu"), package.directory)


# What is added to a bundle, in order: each writes files into the directory and may read those of the ones before it.
WRITERS: tuple[tuple[str, Callable[[Packaging], None]], ...] = (
    ("generate.onnx", lambda package: write_generate_graph(package.bundle, package.directory, package.defaults)),
    (TEXT_FILE, _write_text),
    (VECTORS_FILE, _write_vectors),
    (CONTRACT_FILE, lambda package: write_contract(package.bundle, package.directory, package.defaults)),
)


def package_bundle(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Make a bundle that programs in any language run: a copy of one, with `PACKAGED_FILES` added.

    Args:
        source: a bundle of this house, in full precision or quantized.
        out: the bundle's directory, which is written whole or not at all.
        force: replace the bundle at `out`.
        progress: is told what is being done.

    Raises:
        BundleError: `source` is no bundle, is packaged already, or has a graph that can't go into a loop.
        OutputExistsError: `out` exists.
    """
    from ...runtime.model import generation_defaults

    bundle = Bundle.open(source)
    refuse_existing(out, force=force)
    _refuse_packaged(bundle)
    refuse_unfit(bundle)
    with staged_output(out, force=force) as directory:
        for name in bundle.manifest.files:
            if name != MANIFEST_NAME:
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.directory / name, directory / name)
        package = Packaging(bundle, directory, generation_defaults(bundle), progress)
        for done, (name, write) in enumerate(WRITERS):
            if progress is not None:
                progress(f"writing {name}", done / len(WRITERS))
            write(package)
        seal(directory, bundle.manifest)
    return Bundle.open(out)


def _refuse_packaged(bundle: Bundle) -> None:
    found = [name for name in bundle.manifest.files if name in PACKAGED_FILES]
    if found:
        raise BundleError(
            f"{bundle.directory} is packaged already (it has {', '.join(sorted(found))}): expected a bundle without "
            "these; use it as it is, or package the bundle that it was made of"
        )
