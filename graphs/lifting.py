"""Bundles in half precision as float32 ones again, where float32 is what they can be worked on, or run, in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from ..runtime.bundle import GRAPH_FILE, TOKENIZER_FILE, Bundle
from ..runtime.engine import ort
from ..runtime.errors import ProviderError
from ..runtime.manifest import GraphRecord
from ..runtime.providers import UNKNOWN_ORIGIN, Machine, choose
from ..runtime.settings import DEFAULT_SETTINGS
from .precision import HALVES, to_float32
from .writing import write_model


def is_half(record: GraphRecord) -> bool:
    """Whether a graph is in half precision, by what the manifest says."""
    return record.dtype in HALVES


def lift_bundle(bundle: Bundle, directory: Path) -> Bundle:
    """Write a bundle in half precision as a float32 one for the CPU, its weights as they are rounded.

    Args:
        bundle: is not changed.
        directory: is made; graph, weights and tokenizer are written there, and no manifest.
    """
    directory.mkdir()
    model = ir.load(bundle.graph_path)
    to_float32(model)
    write_model(model, directory)
    if bundle.tokenizer_path.is_file():
        shutil.copyfile(bundle.tokenizer_path, directory / TOKENIZER_FILE)
    graph = replace(bundle.manifest.graph, file=GRAPH_FILE, dtype="float32", target="cpu")
    return Bundle(directory, replace(bundle.manifest, graph=graph))


@contextmanager
def computable(bundle: Bundle) -> Iterator[Bundle]:
    """The bundle itself, or a lifted one while the context lasts where no provider here computes in its type.

    That is so of bfloat16 without a CUDA device, since the CPU has no kernels for it: what can be judged there are
    the weights, rounded to bfloat16, in float32 arithmetic.
    """
    if _runs_here(bundle.manifest.graph):
        yield bundle
        return
    with tempfile.TemporaryDirectory(prefix="onnxgpt-") as scratch:
        yield lift_bundle(bundle, Path(scratch) / bundle.directory.name)


def _runs_here(record: GraphRecord) -> bool:
    if record.dtype != "bfloat16":
        return True  # or the error that opening it raises says what is missing
    try:
        choose(DEFAULT_SETTINGS, record, UNKNOWN_ORIGIN, Machine(ort.get_available_providers()))
    except ProviderError:
        return False
    return True
