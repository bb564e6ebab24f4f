"""`onnxgpt export --via optimum`: run where optimum is, used here, and held against optimum's own runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from onnxgpt.export import export_with_optimum
from onnxgpt.quantize import quantize_bundle
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.errors import ExportError, QuantizationError

from .conftest import HERE, Peers, ours

pytestmark = pytest.mark.slow
OTHERS = ("falcon", "gpt_bigcode", "codegen", "mpt")
NATIVE = "gpt2"  # which `export` knows itself; asked for, optimum does it too


class Optimum:
    """Our command line in optimum's environment."""

    def __init__(self, peers: Peers, site: Path) -> None:
        self._peers, self._site = peers, site

    def onnxgpt(self, *arguments: object) -> str:
        """stdout of `onnxgpt ARGUMENTS`."""
        return self._peers.run("optimum", HERE / "in_onnxgpt.py", self._site, *arguments)


@pytest.fixture(scope="session")
def there(peers: Peers, tmp_path_factory: pytest.TempPathFactory) -> Optimum:
    site = tmp_path_factory.mktemp("site")
    (site / "onnxgpt").symlink_to(HERE.parents[1], target_is_directory=True)
    return Optimum(peers, site)


@pytest.fixture(scope="session")
def others(peers: Peers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of architectures that have no GPT here."""
    directory = tmp_path_factory.mktemp("others")
    peers.run("optimum", HERE / "in_optimum.py", "make_others", directory)
    return directory


@pytest.fixture(scope="session")
def bundles(there: Optimum, others: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundles")
    for source in (*(others / name for name in OTHERS), tiny / NATIVE):
        target = directory / source.name
        assert there.onnxgpt("export", source, "--via", "optimum", "--out", target) == f"{target}\n"
    return directory


@pytest.mark.parametrize("name", [*OTHERS, NATIVE])
def test_a_bundle_is_proven_against_transformers_and_says_where_it_comes_from(bundles: Path, name: str) -> None:
    bundle = Bundle.open(bundles / name)
    bundle.verify_hashes()
    manifest = bundle.manifest
    parity, source = manifest.parity, manifest.source
    assert manifest.name == name
    assert parity is not None
    assert parity["passed"]
    assert parity["reference"].startswith("transformers 4.")
    assert parity["greedy_identical"] == parity["greedy_tokens"] == 64
    assert {case["name"] for case in parity["cases"]} >= {"prefill", "single steps", "ragged batch"}
    assert manifest.architecture["family"] == name
    assert manifest.context_length == 128
    assert (source["via"], source["kind"], source["location"]) == ("optimum", "directory", name)
    assert list(source["sha256"]) == ["model.safetensors"]
    assert source["exporter"]["optimum-onnx"]


def test_text_here_is_text_in_optimums_runtime(peers: Peers, bundles: Path) -> None:
    names = (*OTHERS, NATIVE)
    for name, answer in zip(names, peers.optimum(*(bundles / name for name in names)), strict=True):
        assert len(answer.new) > 3, name
        assert ours(bundles / name) == answer, name


def test_a_bundle_can_be_proven_again_and_is_no_other_model(there: Optimum, bundles: Path, others: Path) -> None:
    assert "the same as" in there.onnxgpt("verify", bundles / "falcon", "--against", others / "falcon")
    with pytest.raises(AssertionError, match="falcon is not"):
        there.onnxgpt("verify", bundles / "falcon", "--against", others / "mpt")


@pytest.mark.parametrize("name", OTHERS)
def test_a_bundle_quantizes_to_int8_and_tells_what_it_cannot(bundles: Path, tmp_path: Path, name: str) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(chr(97 + number * number % 26) for number in range(3000)))
    texts = {"calibration": text, "evaluation": text}
    before = Bundle.open(bundles / name)

    made = quantize_bundle(before.directory, tmp_path / "int8", recipe="int8", accept_quality=True, **texts)

    assert 0 < made.manifest.quality["mean_kl"] < 0.05
    assert made.weight_bytes < before.weight_bytes
    assert len(ours(made.directory).new) > 3
    for recipe in ("int8-dynamic", "cache", "auto"):
        with pytest.raises(QuantizationError, match=f"{recipe} needs more; choose int8"):
            quantize_bundle(before.directory, tmp_path / "other", recipe=recipe, **texts)


def test_what_optimum_does_not_know_is_refused_in_its_words(there: Optimum, others: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"error: optimum can't export xglm: .*unsupported architecture") as told:
        there.onnxgpt("export", others / "xglm", "--via", "optimum", "--out", tmp_path / "xglm")
    assert str(told.value).count("error: ") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "option", [("--operators", "standard"), ("--lora", "tuned"), ("--keep-quantization",)], ids=lambda option: option[0]
)
def test_options_of_our_own_graphs_are_refused(option: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onnxgpt", "export", "x", "--out", tmp_path / "y", "--via", "optimum", *option]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{option[0]} has no effect with --via optimum" in done.stderr


def test_without_optimum_its_extra_is_named(tmp_path: Path) -> None:
    """In this environment, which has none."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "falcon"}))
    pytest.importorskip("torch").save({"a": pytest.importorskip("torch").zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ExportError, match=r"onnxgpt\[optimum\]"):
        export_with_optimum(tmp_path, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
