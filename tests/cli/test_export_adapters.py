"""`onnxgpt export --lora` and `verify --against SOURCE --lora`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..runtime.conftest import GOLDEN, load_golden
from .conftest import Run


def test_an_adapter_is_merged_told_and_proven(onnxgpt_command: Run, tmp_path: Path) -> None:
    load_golden("tiny_llama").write_tiny_llama(tmp_path / "base")
    shutil.copytree(GOLDEN / "lora" / "llama", tmp_path / "tuned")

    done = onnxgpt_command("export", "base", "--lora", "tuned", "--out", "bundle", timeout=300)
    assert (done.returncode, done.stdout) == (0, "bundle\n"), done.stderr
    (adapter,) = json.loads((tmp_path / "bundle" / "bundle.json").read_text())["source"]["adapters"]
    assert (adapter["location"], adapter["scale"]) == ("tuned", 1.0)

    proven = onnxgpt_command("verify", "bundle", "--against", "base", "--lora", "tuned=1.0", timeout=300)
    assert proven.returncode == 0, proven.stderr
    assert "the same as torch" in proven.stdout
    without = onnxgpt_command("verify", "bundle", "--against", "base", timeout=300)
    assert without.returncode == 1
    assert "bundle is not base" in without.stderr or "base is not base" in without.stderr


def test_adapters_that_cannot_be_meant_are_refused(onnxgpt_command: Run, tmp_path: Path) -> None:
    load_golden("tiny_llama").write_tiny_llama(tmp_path / "base")
    for arguments, status, message in (
        (["export", "base", "--out", "x", "--lora", "nothing"], 1, "adapter_config.json"),
        (["export", "base", "--out", "x", "--lora", "nothing=much"], 2, "'much'"),
        (["verify", str(GOLDEN), "--lora", "tuned"], 2, "--against"),
    ):
        done = onnxgpt_command(*arguments)
        assert (done.returncode, done.stdout) == (status, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "x").exists()
