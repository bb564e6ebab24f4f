"""`onnxgpt quantize`: one path on stdout, one line of quality on stderr, or one line that says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxgpt.quantize.recipe import RECIPES
from onnxgpt.quantize.text_files import EvaluationText
from onnxgpt.runtime.bundle import Bundle

from .conftest import Run

CHECKPOINT = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded model in full precision."""
    from onnxgpt.export import export_bundle

    out = tmp_path_factory.mktemp("full") / "tale"
    export_bundle(CHECKPOINT, out)
    return str(out)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One window of the embedded model, so that reading it takes no time."""
    path = tmp_path_factory.mktemp("text") / "short.txt"
    path.write_text(EvaluationText.packaged("evaluation").content[:4000], encoding="utf-8")
    return str(path)


def test_a_bundle_is_made_shown_proven_and_refused_a_second_time(
    onnxgpt_command: Run, full: str, text: str, tmp_path: Path
) -> None:
    options = ["--calibration", text, "--evaluation", text, "--layers", "8:32", "--head", "8:32", "--no-smooth"]
    done = onnxgpt_command("quantize", full, "--out", "small", *options, timeout=300)

    assert (done.returncode, done.stdout) == (0, "small\n"), done.stderr
    assert done.stderr.count("\n") == 1  # quiet where stderr is no terminal
    for part in ("mean KL", "perplexity ratio", "top-1", "MB before", "MB now"):
        assert part in done.stderr
    bundle = Bundle.open(tmp_path / "small")
    assert bundle.manifest.quantization is not None
    assert bundle.manifest.quantization["layers"] == {"bits": 8, "block_size": 32, "symmetric": True}
    assert bundle.manifest.quantization["smooth"] is False

    shown = onnxgpt_command("info", "small")
    assert "int8: layers 8 bits in blocks of 32, down 8 bits in blocks of 128" in shown.stdout
    assert "of checkpoint (float32) on short.txt" in shown.stdout
    assert "parity" not in shown.stdout
    assert json.loads(onnxgpt_command("info", "small", "--json").stdout)["quality"]["mean_kl"] < 0.01

    verified = onnxgpt_command("verify", "small")
    assert verified.returncode == 0
    assert "as they were written" in verified.stdout
    assert "mean KL" in verified.stdout
    against = onnxgpt_command("verify", "small", "--against", str(CHECKPOINT))
    assert (against.returncode, against.stdout) == (2, "")
    assert f"onnxgpt score --model small --against {CHECKPOINT}" in against.stderr

    assert onnxgpt_command("generate", "Once", "--model", "small", "--max-new-tokens", "4").returncode == 0
    again = onnxgpt_command("quantize", full, "--out", "small")
    assert (again.returncode, again.stdout) == (1, "")
    assert "small exists already" in again.stderr
    twice = onnxgpt_command("quantize", "small", "--out", "smaller")
    assert (twice.returncode, twice.stdout) == (1, "")
    assert "small is quantized already (int8)" in twice.stderr


def test_over_the_limit_nothing_is_written_unless_accepted(
    onnxgpt_command: Run, full: str, text: str, tmp_path: Path
) -> None:
    options = ["--calibration", text, "--evaluation", text, "--method", "nearest", "--layers", "4:128", "--json"]
    refused = onnxgpt_command("quantize", full, "--out", "small", "--max-kl", "0.001", *options, timeout=300)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: int8 is 0.")
    assert "its limit is 0.001" in refused.stderr
    assert "--accept-quality" in refused.stderr
    assert list(tmp_path.iterdir()) == []

    options += ["--max-kl", "0.001", "--accept-quality"]
    accepted = onnxgpt_command("quantize", full, "--out", "small", *options, timeout=300)
    found = json.loads(accepted.stdout)
    assert accepted.returncode == 0
    assert found["bundle"] == "small"
    assert found["quality"]["mean_kl"] > 0.001
    assert found["quantization"]["layers"] == {"bits": 4, "block_size": 128, "symmetric": False}
    assert found["quantization"]["head"]["symmetric"] is True
    assert found["bytes"]["weights"] == Bundle.open(tmp_path / "small").weight_bytes
    assert found["bytes"]["weights_before"] == Bundle.open(full).weight_bytes


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--recipe", "int9"], 2, "unknown recipe 'int9'"),
        (["--layers", "8x32"], 2, "'8x32' is no block format: expected BITS:BLOCK"),
        (["--down", "5:32"], 2, "5 bits: expected 4 or 8"),
        (["--head", "8:33"], 2, "block size 33: expected one of"),
        (["--method", "magic"], 2, "method is 'magic': expected gptq or nearest"),
        (["--max-kl", "0"], 2, "max_kl is 0.0: expected a number above 0"),
        (["--max-kl", "much"], 2, "'much' is not a valid float"),
        (["--kv-cache", "int3"], 2, "kv_cache is 'int3': expected int8"),
        (["--threads", "0"], 2, "0 is not in the range"),
        (["--recipe", "int8-dynamic", "--layers", "8:32"], 2, "layers"),
        (["--recipe", "int8-dynamic"], 1, "--operators standard"),
        (["--calibration", "short.txt"], 2, "tokens: expected at least 513"),
        (["--evaluation", "short.txt"], 2, "tokens: expected at least 513"),
        (["--calibration", "nothing.txt"], 2, "nothing.txt can't be read"),
        (["--evaluation", "binary.txt"], 2, "binary.txt is not UTF-8 text"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_was_asked_wrongly_is_refused_in_one_line(
    onnxgpt_command: Run, full: str, tmp_path: Path, options: list[str], status: int, message: str
) -> None:
    (tmp_path / "short.txt").write_text("Once upon a time.")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 20)
    done = onnxgpt_command("quantize", full, "--out", "out", *options)

    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"short.txt", "binary.txt"}


@pytest.mark.parametrize("source", ["nothing-here", str(CHECKPOINT)])
def test_what_is_no_bundle_is_refused(onnxgpt_command: Run, source: str, tmp_path: Path) -> None:
    done = onnxgpt_command("quantize", source, "--out", "out")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_recipes(onnxgpt_command: Run) -> None:
    shown = "".join(onnxgpt_command("quantize", "--help").stdout.split())  # lines break anywhere, at hyphens too

    for name, recipe in RECIPES.items():
        assert name + "".join(recipe.description.split()) in shown
