"""Make a table of kernels, `graphs/kernels/*.json`, from ONNX Runtime's documentation of them.

    python benchmarks/make_kernel_table.py OperatorKernels.md DmlExecutionProvider graphs/kernels/directml.json \\
        --repository spacemit-com/onnxruntime --commit 06472817… --version 1.24.0 --read 2026-11-22

The document is `docs/OperatorKernels.md` of ONNX Runtime's repository, which its build writes from the registered
kernels. Kernels come from it alone; what is beside them in the file (`limits`, `host_inputs`, `notes`), read by people
in the sources of the kernels, is kept as it is.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DOMAIN = re.compile(r"\|\*\*Operator Domain:\*\* \*(?P<name>[\w.]+)\*")
_PARAMETER = re.compile(r"\*(?P<side>in|out)\* (?P<name>[\w.]+):\*\*(?P<type>[^*]+)\*\*")
_CONSTRAINT = re.compile(r"\*\*(?P<name>\w+)\*\* = (?P<types>[^<|]*)")
_TENSOR = re.compile(r"(?<![(\w])tensor\((?P<type>\w+)\)")
_VERSIONS = re.compile(r"\[(?P<first>\d+), (?P<last>\d+)\]|(?P<since>\d+)\+|(?P<only>\d+)")


def main() -> None:
    """Read the command line, the document and the table that is there; write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", type=Path)
    parser.add_argument("provider")
    parser.add_argument("table", type=Path)
    for name in ("repository", "commit", "version", "read"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    table = {
        "provider": options.provider,
        "version": options.version,
        "source": {
            "repository": options.repository,
            "commit": options.commit,
            "path": "docs/OperatorKernels.md",
            "read": options.read,
        },
        "notes": [],
        "host_inputs": {},
        "limits": {},
        "parameters": {},
        "kernels": {},
    }
    if options.table.exists():
        known = json.loads(options.table.read_text(encoding="utf-8"))
        table |= {name: known[name] for name in ("notes", "host_inputs", "limits")}
    section = provider_section(options.document.read_text(encoding="utf-8"), options.provider)
    table["parameters"], table["kernels"] = parse_kernels(section)
    options.table.write_text(as_text(table), encoding="utf-8")


def provider_section(document: str, provider: str) -> str:
    """The lines of one provider's operators."""
    _, _, behind = document.partition(f"## Operators implemented by {provider}\n")
    if not behind:
        raise SystemExit(f"the document has no section of {provider}")
    return behind.partition("\n## ")[0]


def parse_kernels(section: str) -> tuple[dict[str, dict[str, list[str]]], dict[str, list[dict[str, Any]]]]:
    """The parameters and kernels of all operators, by "domain::name"; the ONNX domain is ai.onnx.

    Parameters are kept where ONNX itself defines none: outside of its domain, and of operators of its domain that the
    document gives one form of (of which ONNX does not know SimplifiedLayerNormalization).
    """
    parameters: dict[str, dict[str, list[str]]] = {}
    kernels: dict[str, list[dict[str, Any]]] = {}
    for operator, form, versions, types in _rows(section):
        if form and " or" not in form.replace("<br>", " ") and _needs_parameters(operator):
            parameters[operator] = _parameters(form)
        found = _versions(versions) | {"types": _types(types)}
        rows = kernels.setdefault(operator, [])
        same = next(
            (row for row in rows if "since" in row and "since" in found and row["types"] == found["types"]), None
        )
        if same is None:
            rows.append(found)
        else:
            same["since"] += found["since"]
    return parameters, kernels


def _needs_parameters(operator: str) -> bool:
    return not operator.startswith("ai.onnx::") or operator == "ai.onnx::SimplifiedLayerNormalization"


def _rows(section: str) -> Iterator[tuple[str, str, str, str]]:
    """Operator, parameters (of its first row only), versions and types of every row."""
    domain = operator = ""
    for line in section.splitlines():
        if found := _DOMAIN.match(line):
            domain = found["name"]
            continue
        cells = line.split("|")
        if len(cells) != 6 or not _VERSIONS.fullmatch(cells[3]):
            continue
        operator = f"{domain}::{cells[1]}" if cells[1] else operator
        yield operator, cells[2], cells[3], cells[4]


def _parameters(form: str) -> dict[str, list[str]]:
    """Names of inputs and outputs with their types: "query:T", "position_ids:tensor(int64)"."""
    result: dict[str, list[str]] = {"in": [], "out": []}
    for found in _PARAMETER.finditer(form):
        result[found["side"]].append(f"{found['name']}:{found['type']}")
    return result


def _versions(text: str) -> dict[str, Any]:
    """`since`: versions of the operator, one kernel each; `first` and `last`: one kernel for a range of them."""
    found = _VERSIONS.fullmatch(text)
    assert found is not None
    if found["first"]:
        return {"first": int(found["first"]), "last": int(found["last"])}
    return {"since": [int(found["since"] or found["only"])]}


def _types(text: str) -> dict[str, str]:
    """Tensor types by the name of their constraint, without those of sequences and optional values."""
    return {
        found["name"]: " ".join(tensor["type"] for tensor in _TENSOR.finditer(found["types"]))
        for found in _CONSTRAINT.finditer(text)
    }


def as_text(table: dict[str, Any]) -> str:
    """JSON with one line for each operator, so that a new version's differences can be read."""
    lines = []
    for name, value in table.items():
        if isinstance(value, dict) and name != "source":
            inner = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value[key])}" for key in value)
            lines.append(f" {json.dumps(name)}: {{\n{inner}\n }}" if inner else f" {json.dumps(name)}: {{}}")
        elif isinstance(value, list):
            inner = ",\n".join(f"  {json.dumps(item)}" for item in value)
            lines.append(f" {json.dumps(name)}: [\n{inner}\n ]" if inner else f" {json.dumps(name)}: []")
        else:
            lines.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
