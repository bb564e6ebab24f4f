"""The same greedy text from other runtimes: of their exports here, and of our bundles there. Single rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxgpt.export import export_bundle
from onnxgpt.models.families import FAMILIES
from onnxgpt.runtime.foreign import import_directory, open_any

from .conftest import HERE, NEW_TOKENS, TINY, Peers, ours

pytestmark = pytest.mark.slow
NATIVE = [name for name in TINY if name in FAMILIES]  # what we export ourselves
PRECISIONS = ("fp32", "int4")


@pytest.fixture(scope="session")
def by_optimum(peers: Peers, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """optimum's exports of the tiny models, and `merged`."""
    directory = tmp_path_factory.mktemp("optimum")
    pairs = [folder for name in TINY for folder in (tiny / name, directory / name)]
    peers.run("optimum", HERE / "in_optimum.py", "export", *pairs)
    peers.run("optimum", HERE / "in_optimum.py", "merge", directory / "gpt2", directory / "merged")
    return directory


@pytest.fixture(scope="session")
def by_us(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our bundles of the tiny models of native families."""
    directory = tmp_path_factory.mktemp("ours")
    for name in NATIVE:
        export_bundle(tiny / name, directory / name)
    return directory


def build_with_genai(peers: Peers, source: Path, target: Path, precision: str) -> Path:
    builder = ("-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-c", target.with_suffix(".cache"))
    peers.run("genai", *builder, "-i", source, "-o", target, "-p", precision)
    return target


def test_exports_of_optimum_run_here(peers: Peers, by_optimum: Path, tmp_path: Path) -> None:
    names = (*TINY, "merged")
    theirs = peers.optimum(*(by_optimum / name for name in names))
    for name, answer in zip(names, theirs, strict=True):
        assert ours(by_optimum / name) == answer, name
        imported = import_directory(by_optimum / name, tmp_path / name)
        assert ours(imported.directory) == answer, name
    assert theirs[0] == theirs[-1]
    assert open_any(by_optimum / "merged").manifest.graph.file == "decoder_model_merged.onnx"


def test_exports_of_genai_run_here(peers: Peers, tiny: Path, tmp_path: Path) -> None:
    """Its builder knows no GPT-2, GPT-NeoX and OPT, so: Llama."""
    built = [build_with_genai(peers, tiny / "llama", tmp_path / precision, precision) for precision in PRECISIONS]
    for folder, answer in zip(built, peers.genai(*built), strict=True):
        assert open_any(folder).manifest.graph.shares_cache_buffer
        assert ours(folder) == answer
        assert ours(import_directory(folder, tmp_path / f"{folder.name}-imported").directory) == answer


def test_our_bundles_run_there(peers: Peers, by_us: Path) -> None:
    folders = [by_us / name for name in NATIVE]
    expected = [ours(folder) for folder in folders]
    assert len(expected) >= 2
    assert peers.optimum(*folders) == expected
    assert peers.genai(*folders) == expected


def test_smollm2_in_all_directions(peers: Peers, smol: Path, tmp_path: Path) -> None:
    peers.run("optimum", HERE / "in_optimum.py", "export", smol, tmp_path / "optimum")
    built = build_with_genai(peers, smol, tmp_path / "genai", "int4")
    bundle = export_bundle(smol, tmp_path / "ours").directory

    answer = ours(bundle)
    assert len(answer.new) == NEW_TOKENS
    assert ours(tmp_path / "optimum") == answer
    assert peers.optimum(tmp_path / "optimum", bundle) == [answer, answer]
    theirs, of_ours = peers.genai(built, bundle)
    assert of_ours == answer
    assert ours(built) == theirs
