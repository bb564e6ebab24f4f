"""`onnxgpt export --keep-quantization`: what it says, and what the other commands make of such a bundle."""

from __future__ import annotations

import json
from pathlib import Path

from ..models.conftest import tiny_model
from ..models.test_gguf_file import write_gguf
from .conftest import Run


def test_a_kept_bundle_from_making_to_judging(onnxgpt_command: Run, tmp_path: Path) -> None:
    model = tiny_model("llama", intermediate_size=64)
    write_gguf(tmp_path / "tiny.gguf", model, kinds=lambda name: "F16" if "embd" in name else "Q4_1")

    done = onnxgpt_command("export", "tiny.gguf", "--keep-quantization", "--out", "kept")
    assert (done.returncode, done.stdout) == (0, "kept\n")
    line = "kept: matrices 15 Q4_1 as in the file, 1 F16 in full precision"
    assert f"tiny-kept: {line}; mean KL " in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "tiny.gguf"]

    assert line in onnxgpt_command("info", "kept").stdout
    assert onnxgpt_command("verify", "kept").returncode == 0
    judged = onnxgpt_command("score", "--model", "kept", "--against", "tiny.gguf", "--tokens", "64", "--json")
    assert judged.returncode == 0, judged.stderr
    assert json.loads(judged.stdout)["mean_kl"] <= 1e-6

    refused = onnxgpt_command("verify", "kept", "--against", "tiny.gguf")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "onnxgpt score --model kept --against tiny.gguf" in refused.stderr


def test_a_file_with_no_blocks_is_refused_in_one_line(onnxgpt_command: Run, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"))
    done = onnxgpt_command("export", "tiny.gguf", "--keep-quantization", "--out", "kept")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no quantization to keep: its matrices are F32" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "kept").exists()
