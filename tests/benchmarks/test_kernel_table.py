"""The table's maker on lines of docs/OperatorKernels.md (1.24.0), with what they say by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "make_kernel_table.py"
DOCUMENT = """## Supported Operators and Data Types

## Operators implemented by CPUExecutionProvider
|**Operator Domain:** *ai.onnx*||||
|Abs|*in* X:**T**<br> *out* Y:**T**|13+|**T** = tensor(double)|

## Operators implemented by DmlExecutionProvider

| Op Name | Parameters | OpSet Version | Types Supported |
|---------|------------|---------------|-----------------|
|**Operator Domain:** *ai.onnx*||||
|Abs|*in* X:**T**<br> *out* Y:**T**|13+|**T** = tensor(float), tensor(float16)|
|||6+|**T** = tensor(float), tensor(float16)|
|Equal|*in* A:**T**<br> *in* B:**T**<br> *out* C:**T1**|[13, 18]|**T** = tensor(int64)<br/> **T1** = tensor(bool)|
|||11|**T** = tensor(bool)<br/> **T1** = tensor(bool)|
|Identity|*in* input:**V**<br> *out* output:**V**|19+|**V** = seq(tensor(bool)), tensor(bool), tensor(int8)|
| |
| |
|**Operator Domain:** *com.microsoft*||||
|RotaryEmbedding|*in* x:**T**<br> *in* position_ids:**tensor(int64)**<br> *out* output:**T**|1+|**T** = tensor(float)|
"""


def make(directory: Path, *more: str, provider: str = "DmlExecutionProvider") -> subprocess.CompletedProcess[str]:
    (directory / "document.md").write_text(DOCUMENT, encoding="utf-8")
    options = ["--repository", "a/b", "--commit", "c" * 40, "--version", "1.24.0", "--read", "2026-11-22"]
    command = [sys.executable, str(SCRIPT), "document.md", provider, "table.json", *options, *more]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def test_a_section_becomes_a_table(tmp_path: Path) -> None:
    assert make(tmp_path).returncode == 0
    table = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))

    assert table["kernels"] == {
        "ai.onnx::Abs": [{"since": [13, 6], "types": {"T": "float float16"}}],
        "ai.onnx::Equal": [
            {"first": 13, "last": 18, "types": {"T": "int64", "T1": "bool"}},
            {"since": [11], "types": {"T": "bool", "T1": "bool"}},
        ],
        "ai.onnx::Identity": [{"since": [19], "types": {"V": "bool int8"}}],
        "com.microsoft::RotaryEmbedding": [{"since": [1], "types": {"T": "float"}}],
    }
    assert table["parameters"] == {
        "com.microsoft::RotaryEmbedding": {"in": ["x:T", "position_ids:tensor(int64)"], "out": ["output:T"]}
    }
    assert table["source"] == {
        "repository": "a/b", "commit": "c" * 40, "path": "docs/OperatorKernels.md", "read": "2026-11-22"
    }  # fmt: skip


def test_what_people_wrote_beside_the_kernels_is_kept(tmp_path: Path) -> None:
    known = {"notes": ["read in the sources"], "host_inputs": {"ai.onnx::Abs": [0]}, "limits": {"ai.onnx::Abs": []}}
    (tmp_path / "table.json").write_text(json.dumps(known | {"kernels": {"ai.onnx::Gone": []}}), encoding="utf-8")

    assert make(tmp_path).returncode == 0
    table = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert {name: table[name] for name in known} == known
    assert "ai.onnx::Gone" not in table["kernels"]


def test_a_provider_that_the_document_does_not_have(tmp_path: Path) -> None:
    result = make(tmp_path, provider="NoSuchExecutionProvider")

    assert result.returncode == 1
    assert result.stderr == "the document has no section of NoSuchExecutionProvider\n"
    assert not (tmp_path / "table.json").exists()
