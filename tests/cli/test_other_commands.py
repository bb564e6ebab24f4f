"""`score`, `verify`, `info`, `models`, `pull`, `bench`: figures for people and, with --json, for programs."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

import onnxgpt
from onnxgpt.loading import find_bundle
from onnxgpt.runtime.bundle import Bundle

from .conftest import Run

TEXT = "Once upon a time there was a king."


def test_score_reads_a_long_text_in_windows(onnxgpt_command: Run) -> None:
    text = TEXT * 100
    expected = onnxgpt.load("fairytale").score(text, window=200, stride=120)
    done = onnxgpt_command("score", "--window", "200", "--stride", "120", "--json", stdin=text)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["perplexity"] == pytest.approx(expected.perplexity)
    assert json.loads(done.stdout)["tokens"] > 512
    whole = onnxgpt_command("score", "--stride", "300", "--json", stdin=text)
    assert json.loads(whole.stdout)["perplexity"] == pytest.approx(
        onnxgpt.load("fairytale").score(text, stride=300).perplexity
    )


def test_score_ranks_candidates(onnxgpt_command: Run) -> None:
    prompt, candidates = "The wolf ate the", [" moon", " sheep", " old sheep"]
    given = [argument for candidate in candidates for argument in ("--candidate", candidate)]
    expected = onnxgpt.load("fairytale").score(prompt, candidates)
    plain = onnxgpt_command("score", prompt, *given)
    found = [json.loads(line) for line in onnxgpt_command("score", prompt, *given, "--json").stdout.splitlines()]

    assert [row["candidate"] for row in found] == sorted(
        candidates, key=lambda candidate: -expected[candidates.index(candidate)].total
    )
    for row in found:
        score = expected[candidates.index(row["candidate"])]
        assert row["log_probability"] == pytest.approx(score.total)
        assert row["mean_log_probability"] == pytest.approx(score.mean)
        share = math.exp(score.total) / sum(math.exp(other.total) for other in expected)
        assert row["probability"] == pytest.approx(share)
    assert [json.loads(line.split("  ")[0]) for line in plain.stdout.splitlines()] == [
        row["candidate"] for row in found
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--candidate", ""], "candidate 0 is empty"),
        (["--candidate", "x", "--stride", "3"], "--stride has no effect with --candidate"),
        (["--window", "20"], "window has no effect without a stride"),
        (["--stride", "512"], "stride is 512: expected 1 to 511"),
    ],
)
def test_wrong_scoring_is_refused_in_one_line(given: list[str], message: str, onnxgpt_command: Run) -> None:
    done = onnxgpt_command("score", TEXT, *given)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def test_score_tells_what_the_model_tells(onnxgpt_command: Run) -> None:
    expected = onnxgpt.load("fairytale").score(TEXT)
    plain = onnxgpt_command("score", TEXT)
    found = json.loads(onnxgpt_command("score", "--json", stdin=TEXT + "\n").stdout)

    assert plain.stdout.split() == [
        "tokens", str(len(expected.token_ids)),
        "log-probability", f"{expected.total:.4f}",
        "perplexity", f"{expected.perplexity:.4f}",
    ]  # fmt: skip
    assert found["log_probability"] == pytest.approx(expected.total, abs=1e-4)
    assert found["perplexity"] == pytest.approx(expected.perplexity, rel=1e-5)
    assert found["token_ids"] == list(expected.token_ids)
    assert sum(found["logprobs"]) == pytest.approx(expected.total, abs=1e-4)


def test_info_tells_architecture_memory_quality_and_places(onnxgpt_command: Run) -> None:
    plain = onnxgpt_command("info").stdout
    found = json.loads(onnxgpt_command("info", "fairytale", "--json").stdout)

    assert found["architecture"]["num_layers"] == 6
    # Keys and values of 6 layers, 4 heads of 64, 4 bytes each.
    assert found["bytes"]["cache_per_token"] == 2 * 6 * 4 * 64 * 4
    assert found["bytes"]["cache_at_context"] == 512 * found["bytes"]["cache_per_token"]
    weights = [path.stat().st_size for path in find_bundle("fairytale").glob("model.onnx*")]
    assert found["bytes"]["weights"] == sum(weights)
    assert list(found["nodes"]) == ["CPUExecutionProvider"]
    assert found["nodes"]["CPUExecutionProvider"] > 6
    assert found["parity"] is None
    assert found["quality"]["mean_kl"] < found["quantization"]["max_kl"] == 0.01
    assert "12.3 kB per token, 6.3 MB at 512 tokens" in plain
    assert "quantization  int8: layers 8 bits in blocks of 128" in plain
    assert "top-1 98.2% of fairytale (float32)" in plain


def test_info_tells_the_parity_of_full_precision(onnxgpt_command: Run, full_bundle: Bundle) -> None:
    directory = str(full_bundle.directory)
    found = json.loads(onnxgpt_command("info", directory, "--json").stdout)

    assert found["parity"]["passed"] is True
    assert "the same as torch" in onnxgpt_command("info", directory).stdout


def test_verify_reads_every_file(onnxgpt_command: Run) -> None:
    plain = onnxgpt_command("verify", "fairytale")
    found = json.loads(onnxgpt_command("verify", "fairytale", "--json").stdout)

    assert plain.returncode == 0
    assert "as they were written\n" in plain.stdout
    assert "when it was quantized\n" in plain.stdout
    assert set(found["files"]) == {path.name for path in find_bundle("fairytale").iterdir()} - {"bundle.json"}
    assert found["parity"] is None


def test_models_lists_what_is_here_and_what_can_be_had(onnxgpt_command: Run, tmp_path: Path) -> None:
    env = {"ONNXGPT_CACHE": str(tmp_path / "empty")}
    plain = onnxgpt_command("models", env=env)
    found = json.loads(onnxgpt_command("models", "--json", env=env).stdout)
    by_name = {entry["name"]: entry for entry in found["models"]}

    assert Path(by_name["fairytale"]["location"]).is_dir()
    assert by_name["smollm2-135m-instruct"]["location"] is None
    assert by_name["smollm2-135m-instruct"]["license"] == "apache-2.0"
    assert {"gpt2", "llama"} <= {family["model_type"] for family in found["families"]}
    assert "onnxgpt pull smollm2-135m-instruct" in plain.stdout


def test_pulling_what_is_in_the_box_tells_where_it_is(onnxgpt_command: Run) -> None:
    done = onnxgpt_command("pull", "fairytale")

    assert (Path(done.stdout.strip()) / "bundle.json").is_file()


def test_bench_measures(onnxgpt_command: Run) -> None:
    options = ["--prompt-tokens", "16", "--new-tokens", "8", "--repeat", "2", "--threads", "1"]
    found = json.loads(onnxgpt_command("bench", "--json", *options).stdout)
    plain = onnxgpt_command("bench", *options)

    assert (found["prompt_tokens"], found["new_tokens"], found["repeat"], found["threads"]) == (16, 8, 2, 1)
    assert found["prefill_tokens_per_second"] == pytest.approx(16 / found["first_token_seconds"])
    assert found["decode_tokens_per_second"] > 0
    assert found["load_seconds"] > 0
    if sys.platform == "linux":
        weights = sum(path.stat().st_size for path in find_bundle("fairytale").glob("model.onnx*"))
        assert found["peak_memory_bytes"] - found["libraries_memory_bytes"] > weights / 2
    assert plain.stderr == ""
    assert [line.split("  ")[0] for line in plain.stdout.splitlines()][:6] == [
        "model", "runs", "load", "first token", "prefill", "decode",
    ]  # fmt: skip


def test_python_m_and_the_console_script_are_the_same(onnxgpt_command: Run) -> None:
    from importlib.metadata import entry_points

    script = entry_points(group="console_scripts", name="onnxgpt")

    assert [entry.value for entry in script] in ([], ["onnxgpt.cli:main"])  # empty where only the path is set
    assert onnxgpt_command("--version").stdout.startswith("onnxgpt ")
