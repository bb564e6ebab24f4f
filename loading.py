"""`onnxgpt.load`: from a directory or a catalogue name to a loaded Model. The runtime itself knows no catalogue."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .runtime.errors import BundleNotFoundError

if TYPE_CHECKING:
    from .runtime.model import Model

DEFAULT_MODEL = "fairytale"


def load(
    path_or_name: str | os.PathLike[str] = DEFAULT_MODEL,
    provider: str = "auto",
    threads: int | None = None,
    memory_limit: int | str | None = None,
    low_power: bool = False,
    *,
    device: int | None = None,
    provider_options: Mapping[str, object] | None = None,
    allow_fallback: bool = False,
    cuda_graph: bool = False,
) -> Model:
    """Load a bundle by its directory, or by the catalogue name of a bundle that is on this machine.

    Nothing is downloaded here: `onnxgpt pull NAME` does that.

    Args:
        path_or_name: a bundle's directory, which wins over a name, or a name that `onnxgpt models` lists.
        provider: "cpu", "cuda", "dml", or "auto": what the bundle was made for, if that is there, else the CPU.
        threads: threads within one operator; None: one per physical core, within the process's CPU quota.
        memory_limit: bytes that weights and cache may take together, or text such as "500MB"; None: no limit.
        low_power: half as many threads unless a number is given, and those that wait sleep instead of spinning.
        device: the number of a CUDA or DirectML device; None: the first.
        provider_options: ONNX Runtime's own options of the provider, such as {"gpu_mem_limit": "4GiB"}.
        allow_fallback: run even where a device lacks kernels for many nodes, which the CPU computes then.
        cuda_graph: record a decode step on a CUDA device once, and replay it.

    Raises:
        BundleError: no such bundle, or not a sound one.
        ProviderError: the provider is not there, or would not run the graph.
        OptionError: an option of a device without one, or a provider option that is none.
        MemoryLimitError: what loading needs is over the limit, or over what a device has.
    """
    from .runtime.model import Model  # here, so that the command line's help need not load ONNX Runtime

    return Model.load(
        find_bundle(path_or_name),
        provider=provider,
        threads=threads,
        memory_limit=memory_limit,
        low_power=low_power,
        device=device,
        provider_options=provider_options,
        allow_fallback=allow_fallback,
        cuda_graph=cuda_graph,
    )


def find_bundle(path_or_name: str | os.PathLike[str]) -> Path:
    """The directory of a bundle: `path_or_name` itself when that exists, else where the catalogue's model lives.

    Raises:
        BundleNotFoundError: neither, or a catalogue model that is no bundle yet; the message says how to make it one.
    """
    path = Path(path_or_name)
    if path.exists():
        return path
    from .models.catalog import CATALOG, find

    name = str(path_or_name)
    if name not in CATALOG:
        raise BundleNotFoundError(
            f"{name} is neither a directory nor a model of the catalogue ({', '.join(CATALOG)}): "
            "export one with `onnxgpt export SOURCE --out DIR`"
        )
    if CATALOG[name].kind != "bundle":
        raise BundleNotFoundError(
            f"{name} is a checkpoint, and text comes from bundles: run `onnxgpt export {name} --out DIR` and load DIR"
        )
    found = find(name)
    if found is None:
        raise BundleNotFoundError(f"{name} is not on this machine: fetch it with `onnxgpt pull {name}`")
    return found
