"""Execution providers: the names people use, ONNX Runtime's names, and what to install for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ProviderError


@dataclass(frozen=True)
class Provider:
    """One way to run a graph: our name, ONNX Runtime's name and the extra that installs it."""

    name: str
    runtime_name: str
    extra: str


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("cpu", "CPUExecutionProvider", "cpu"),
        Provider("cuda", "CUDAExecutionProvider", "cuda"),
        Provider("dml", "DmlExecutionProvider", "directml"),
    )
}


def choose_provider(name: str, target: str, available: Sequence[str]) -> Provider:
    """The provider to open a graph with.

    Args:
        name: `cpu`, `cuda`, `dml`, or `auto` for the one that the graph was made for.
        target: what the graph was made for, from the bundle's manifest.
        available: the names of what the installed ONNX Runtime has.

    Raises:
        ProviderError: unknown name, a provider that is not installed, or a graph made for another.
    """
    if name != "auto" and name not in PROVIDERS:
        raise ProviderError(f"unknown provider {name!r}: expected auto, {', '.join(PROVIDERS)}")
    provider = PROVIDERS.get(target if name == "auto" else name, PROVIDERS["cpu"])
    if provider.runtime_name not in available:
        raise ProviderError(
            f"provider {provider.name} is not in the installed ONNX Runtime (it has {', '.join(available)}): "
            f"install onnxgpt[{provider.extra}] in an environment without another onnxruntime"
        )
    if provider.name != target:
        raise ProviderError(
            f"this bundle was exported for {target}, not for {provider.name}: its operators have no kernels there; "
            f"use provider {target}"
        )
    return provider
