"""What an execution provider of ONNX Runtime has kernels for, as its documentation and sources tell.

The files in `kernels/` say where they come from. `benchmarks/make_kernel_table.py` makes them again from another
version's documentation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .signatures import Signature, documented_signature, onnx_signature

ONNX_DOMAIN = "ai.onnx"
_FOLDER = Path(__file__).parent / "kernels"
_FILES = {"cuda": "cuda.json", "dml": "directml.json"}  # by target; the CPU runs whatever the others leave to it


@dataclass(frozen=True)
class Kernel:
    """One registered kernel."""

    versions: tuple[int, ...]  # of the operator, as numbered by the opset that brought each; () for a range
    span: tuple[int, int] | None  # the first and last version that it serves
    types: Mapping[str, frozenset[str]]  # by type constraint ("T"): "float16", "int64", …

    def serves(self, since_version: int) -> bool:
        """Whether it runs this version of its operator: a kernel without an end serves exactly what it names."""
        if self.span is not None:
            return self.span[0] <= since_version <= self.span[1]
        return since_version in self.versions


@dataclass(frozen=True)
class Limit:
    """What a kernel asks beyond versions and types, read in its source. One of the fields is set, with the reason."""

    why: str
    never: bool = False  # the operator is registered and computes something else
    needs: tuple[str, ...] = ()  # inputs that must be given
    absent: tuple[str, ...] = ()  # inputs that must not
    outputs_absent: tuple[str, ...] = ()
    attribute: str = ""  # if it is there, its value must be one of `values`
    values: tuple[Any, ...] = ()
    divides: tuple[str, ...] = ()  # the first attribute divides the second
    types: Mapping[str, str] = field(default_factory=dict)  # of inputs, if given: types apart by spaces


@dataclass(frozen=True)
class KernelTable:
    """One provider's kernels. Operators are named "domain::name", the ONNX domain "ai.onnx"."""

    provider: str
    version: str  # of ONNX Runtime
    source: Mapping[str, str]  # repository, commit and path of the document, and when it was read
    kernels: Mapping[str, tuple[Kernel, ...]]
    limits: Mapping[str, tuple[Limit, ...]]
    host_inputs: Mapping[str, frozenset[int]]  # inputs that a kernel reads in the host's memory
    parameters: Mapping[str, Signature]  # of operators that ONNX itself does not define

    def signature(self, operator: str, opset: int) -> Signature | None:
        """The operator as a model of this opset means it, or None where nobody here defines it."""
        if operator in self.parameters:
            return self.parameters[operator]
        domain, _, name = operator.partition("::")
        return onnx_signature(name, opset) if domain == ONNX_DOMAIN else None


@cache
def kernel_table(target: str) -> KernelTable | None:
    """The table of a target's provider; None for the CPU, whose kernels a proof through the runtime finds out."""
    if target not in _FILES:
        return None
    data = json.loads((_FOLDER / _FILES[target]).read_text(encoding="utf-8"))
    return KernelTable(
        provider=data["provider"],
        version=data["version"],
        source=data["source"],
        kernels={name: tuple(_kernel(row) for row in rows) for name, rows in data["kernels"].items()},
        limits={name: tuple(_limit(row) for row in rows) for name, rows in data["limits"].items()},
        host_inputs={name: frozenset(indices) for name, indices in data["host_inputs"].items()},
        parameters={name: documented_signature(form["in"], form["out"]) for name, form in data["parameters"].items()},
    )


def _kernel(row: Mapping[str, Any]) -> Kernel:
    span = (row["first"], row["last"]) if "first" in row else None
    types = {name: frozenset(text.split()) for name, text in row["types"].items()}
    return Kernel(tuple(row.get("since", ())), span, types)


def _limit(row: Mapping[str, Any]) -> Limit:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Limit(**fields)
