"""`onnxgpt web`: what it writes, refuses and serves; and the page in headless Chromium, by Node's tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxgpt.cli import onnxgpt as command
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.errors import OptionError, OutputExistsError
from onnxgpt.web import find_runtime, write_page

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BUNDLE = ROOT / "models" / "fairytale" / "bundle"
NEEDED = (
    "onnxruntime-web/dist/ort.wasm.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    "@huggingface/tokenizers/dist/tokenizers.min.mjs",
)


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A node_modules with the names of what is needed; the page is written, not run."""
    for name in NEEDED:
        path = tmp_path / "node_modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    return tmp_path / "node_modules"


@pytest.fixture
def page(tmp_path: Path, modules: Path) -> Path:
    write_page(Bundle.open(BUNDLE), tmp_path / "page", runtime=modules, webgpu=False)
    return tmp_path / "page"


def test_the_bundle_in_the_page_is_the_bundle(page: Path) -> None:
    Bundle.open(page / "bundle").verify_hashes()
    assert json.loads((page / "page.json").read_text())["unpacked"] == "unpacked.onnx"
    assert (page / "bundle" / "unpacked.onnx").stat().st_size < 200_000  # weights are not stored twice


def test_everything_that_the_page_loads_first_is_kept_for_offline_use(page: Path) -> None:
    worker = (page / "service-worker.js").read_text(encoding="utf-8")
    shell = json.loads(re.search(r"const SHELL = (\[.*\]);", worker)[1])
    code = {path.relative_to(page).as_posix() for path in page.rglob("*") if path.suffix in (".js", ".css", ".svg")}

    assert set(shell) == code - {"service-worker.js"} | {"./", "page.json"}
    assert '"development"' not in worker


def test_another_bundle_is_another_version(tmp_path: Path, modules: Path, page: Path) -> None:
    changed = shutil.copytree(BUNDLE, tmp_path / "changed")
    manifest = (changed / "bundle.json").read_text(encoding="utf-8")
    (changed / "bundle.json").write_text(manifest.replace("fairytale-int8", "fairytale-two"), encoding="utf-8")
    write_page(Bundle.open(changed), tmp_path / "other", runtime=modules, webgpu=False)

    versions = [(path / "service-worker.js").read_text(encoding="utf-8") for path in (page, tmp_path / "other")]
    assert versions[0] != versions[1]


def test_an_existing_page_is_replaced_only_when_asked_and_nothing_else_is(page: Path, modules: Path) -> None:
    bundle = Bundle.open(BUNDLE)
    with pytest.raises(OutputExistsError, match="exists already"):
        write_page(bundle, page, runtime=modules, webgpu=False)
    write_page(bundle, page, runtime=modules, webgpu=False, force=True)
    (page / "page.json").unlink()
    with pytest.raises(OutputExistsError, match=r"has no page\.json"):
        write_page(bundle, page, runtime=modules, webgpu=False, force=True)


def test_a_missing_runtime_is_told_and_nothing_is_written(tmp_path: Path, modules: Path) -> None:
    (modules / NEEDED[2]).unlink()
    with pytest.raises(OptionError, match=r"lacks them: run `npm install .*onnxruntime-web @huggingface/tokenizers`"):
        write_page(Bundle.open(BUNDLE), tmp_path / "page", runtime=modules)
    assert not (tmp_path / "page").exists()


def test_the_runtime_of_a_directory_above_is_found(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = modules.parent / "project" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert find_runtime(None) == modules


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "neither --out nor --open"),
        (["--out", "x", "--port", "1"], "--port has no effect without --open"),
        (["--open", "--force"], "--force has no effect without --out"),
    ],
)
def test_options_without_effect_are_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(command, ["web", *arguments])
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.skipif(sys.platform == "win32", reason="ends the server with a POSIX signal")
def test_open_serves_the_page_with_the_headers_for_threads(modules: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "onnxgpt", "web", "--open", "--runtime", str(modules), "--no-webgpu"],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"BROWSER": "true"},
        # A test run in the background of a shell has it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        lines = iter(server.stderr.readline, "")
        url = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+/", line)))
        for name, kind in (
            ("", "text/html"),
            ("page.js", "text/javascript"),
            ("bundle/bundle.json", "application/json"),
        ):
            with urllib.request.urlopen(url + name) as response:
                assert response.headers["Content-Type"] == kind
                assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        with urllib.request.urlopen(url + "runtime/ort-wasm-simd-threaded.wasm") as response:
            assert response.headers["Content-Type"] == "application/wasm"
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130
        server.stderr.close()


def test_the_page_passes_its_tests_in_chromium(
    run_node_tests: Callable[..., None], package: Path, tmp_path: Path
) -> None:
    chromium = os.environ.get("ONNXGPT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        (pytest.fail if os.environ.get("ONNXGPT_NO_SKIP") else pytest.skip)(
            "no Chromium here: set ONNXGPT_CHROMIUM to its path"
        )
    result = CliRunner().invoke(
        command, ["web", "--out", str(tmp_path / "page"), "--runtime", str(EXAMPLES / "node_modules")]
    )
    assert result.exit_code == 0, result.output
    run_node_tests(
        "web",
        ONNXGPT_PAGE=str(tmp_path / "page"),
        ONNXGPT_VECTORS=str(package / "vectors.json"),
        ONNXGPT_CHROMIUM=chromium,
    )
