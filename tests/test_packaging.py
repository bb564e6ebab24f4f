"""What the wheel holds and asks for, built from the sources as they are."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import onnxgpt

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the sources, so that nothing left in `build` gets in and nothing is left behind."""
    copy = tmp_path_factory.mktemp("wheel") / "sources"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "node_modules")
    shutil.copytree(ROOT, copy, ignore=unwanted)
    # The installed setuptools builds it: no network, and no longer than a second or two.
    program = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", program], cwd=copy, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(copy / done.stdout.splitlines()[-1])


def test_everything_lies_under_onnxgpt(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}

    assert tops == {"onnxgpt", f"onnxgpt-{onnxgpt.__version__}.dist-info"}


def test_every_module_of_the_house_is_in_it(wheel: zipfile.ZipFile) -> None:
    outside = {"tests", "benchmarks", "examples", "build", "dist"}
    sources = {path.relative_to(ROOT) for path in ROOT.rglob("*.py")}
    expected = {
        f"onnxgpt/{path.as_posix()}"
        for path in sources
        if path.parts[0] not in outside and not path.parts[0].startswith(".")
    }

    assert {name for name in wheel.namelist() if name.endswith(".py")} == expected


def test_the_embedded_bundle_is_in_it_and_the_checkpoint_is_not(wheel: zipfile.ZipFile) -> None:
    embedded = {name for name in wheel.namelist() if name.startswith("onnxgpt/models/fairytale/")}
    bundle = ROOT / "models" / "fairytale" / "bundle"

    assert embedded == {f"onnxgpt/models/fairytale/bundle/{path.name}" for path in bundle.iterdir()}
    assert "onnxgpt/py.typed" in wheel.namelist()


def test_the_page_for_browsers_is_in_it(wheel: zipfile.ZipFile) -> None:
    found = {name for name in wheel.namelist() if name.startswith("onnxgpt/examples/")}
    folders = [ROOT / "examples" / "web" / "page", ROOT / "examples" / "javascript"]

    assert found == {f"onnxgpt/{path.relative_to(ROOT).as_posix()}" for folder in folders for path in folder.iterdir()}


def test_torch_and_its_company_come_by_extra_only(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode("utf-8"))
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]

    core = {re.split(r"[^\w-]", line)[0] for line in required}
    assert core == {"numpy", "tokenizers", "minijinja", "click", "rich"}
    assert {"cpu", "cuda", "directml", "export", "dev"} <= set(metadata.get_all("Provides-Extra", []))
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_version_has_its_place_in_the_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert "## Unreleased" in text or f"## {onnxgpt.__version__}" in text


def test_every_pin_is_exact_and_torch_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]

    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert "torch==2.13.0" in pins
