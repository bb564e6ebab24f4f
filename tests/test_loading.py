"""`onnxgpt.load`: an existing directory first, then the catalogue; every refusal says what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import onnxgpt
from onnxgpt.loading import find_bundle
from onnxgpt.runtime.errors import BundleNotFoundError, MemoryLimitError


def test_without_a_name_the_model_in_the_box_is_loaded() -> None:
    model = onnxgpt.load()

    assert model.bundle.manifest.name == "fairytale-int8"


def test_the_embedded_bundle_is_made_of_files_not_links() -> None:
    # A strict editable install links every file to the sources; a bundle of links would be refused.
    assert not any(path.is_symlink() for path in find_bundle("fairytale").iterdir())


def test_an_existing_directory_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = find_bundle("fairytale")
    monkeypatch.chdir(tmp_path)
    assert find_bundle("fairytale") == embedded

    shutil.copytree(embedded, "fairytale")
    assert find_bundle("fairytale") == Path("fairytale")
    assert onnxgpt.load("fairytale").bundle.directory == Path("fairytale")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "neither a directory nor a model of the catalogue .*onnxgpt export"),
        ("smollm2-135m-instruct", "is a checkpoint.*onnxgpt export smollm2-135m-instruct --out DIR"),
        (".", "has no bundle.json"),
    ],
)
def test_what_cannot_be_loaded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleNotFoundError, match=message):
        onnxgpt.load(name)


def test_the_limit_reaches_the_model() -> None:
    with pytest.raises(MemoryLimitError, match=r"loading the weights of fairytale-int8 needs 6\.6 MB"):
        onnxgpt.load("fairytale", memory_limit="5MB")
