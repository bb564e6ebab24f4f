"""The cache folder with every fault planted: rights, truncated and changed models, what killed pulls leave."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onnxgpt.doctor import cache as doctor_cache
from onnxgpt.doctor.cache import CONTENT, EMBEDDED, FOLDER, LEFTOVERS, cache_findings
from onnxgpt.doctor.findings import Finding
from onnxgpt.models import catalog
from onnxgpt.models.catalog import CATALOG, find

EMBEDDED_BUNDLE = find("fairytale")
CONTENT_OF_TINY = b"weights " * 1000
REMOVE = "rmdir /s /q" if os.name == "nt" else "rm -r"
NOBODY = 65534  # the number of the user without rights on Linux

needs_users = pytest.mark.skipif(os.name == "nt", reason="takes rights as POSIX has them")


def found(name: str) -> list[Finding]:
    return [finding for finding in cache_findings() if finding.name == name]


@pytest.fixture
def tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the catalogue, pulled."""
    entry = dataclasses.replace(
        CATALOG["smollm2-135m-instruct"],
        name="tiny",
        file="tiny.gguf",
        size=len(CONTENT_OF_TINY),
        sha256=hashlib.sha256(CONTENT_OF_TINY).hexdigest(),
    )
    for module in (catalog, doctor_cache):
        monkeypatch.setattr(module, "CATALOG", {**CATALOG, "tiny": entry})
    path = cache / "models" / "tiny" / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT_OF_TINY)
    return path


@pytest.fixture
def bundle(cache: Path) -> Path:
    """A sound bundle in the cache."""
    return shutil.copytree(EMBEDDED_BUNDLE, cache / "models" / "mine")


def change_a_byte(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        [value] = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([value ^ 1]))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def test_a_folder_that_is_not_there_yet_is_no_fault(cache: Path) -> None:
    [folder] = found(FOLDER)

    assert folder.state == "ok"
    assert folder.facts["exists"] is False
    assert folder.facts["writable"] is True
    assert not cache.exists()
    assert found(CONTENT) == []


def test_sound_models_are_named(tiny: Path, bundle: Path) -> None:
    [content] = found(CONTENT)

    assert (content.state, content.facts) == ("ok", {"sound": ["mine", "tiny"]})
    assert [finding.state for finding in cache_findings()] == ["ok", "ok", "ok"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda bundle: truncate(bundle / "model.onnx.data"), "model.onnx.data has 6,615,039 bytes"),
        (lambda bundle: change_a_byte(bundle / "model.onnx.data"), "model.onnx.data has sha256"),
        (lambda bundle: change_a_byte(bundle / "tokenizer.json"), "tokenizer.json has sha256"),
        (lambda bundle: (bundle / "bundle.json").unlink(), "has no bundle.json"),
        (lambda bundle: truncate(bundle / "bundle.json") or truncate(bundle / "bundle.json"), "is not JSON"),
        (lambda bundle: (bundle / "tokenizer.json").unlink(), "lacks tokenizer.json"),
        (lambda bundle: [(bundle / name).unlink() for name in ("bundle.json", "model.onnx")], "has no bundle.json"),
    ],
    ids=["truncated", "changed byte", "changed tokenizer", "no manifest", "half a manifest", "a file less", "weights"],
)
def test_a_broken_bundle_is_named_with_what_mends_it(bundle: Path, tiny: Path, damage, message: str) -> None:
    damage(bundle)
    sound, broken = found(CONTENT)

    assert (sound.state, sound.facts) == ("ok", {"sound": ["tiny"]})
    assert broken.state == "fault"
    assert str(bundle) in broken.found
    assert message in broken.found
    assert broken.commands == (f'{REMOVE} "{bundle}"', "onnxgpt export SOURCE --out DIR")


@pytest.mark.parametrize(
    ("damage", "message"),
    [(truncate, "has 7,999 bytes, the catalogue says 8,000"), (change_a_byte, "another sha256")],
)
def test_a_broken_checkpoint_is_pulled_again(tiny: Path, damage, message: str) -> None:
    damage(tiny)
    [broken] = found(CONTENT)

    assert broken.state == "fault"
    assert message in broken.found
    assert broken.commands == (f'{REMOVE} "{tiny.parent}"', "onnxgpt pull tiny")


def test_what_killed_pulls_left_is_noted(tiny: Path) -> None:
    leftover = tiny.parent / "tmpabc.partial"
    (leftover / "pip").mkdir(parents=True)
    (leftover / "half.whl").write_bytes(b"x" * 5000)
    [finding] = found(LEFTOVERS)

    assert finding.state == "note"
    assert "5.0 kB" in finding.found
    assert finding.commands == (f'{REMOVE} "{leftover}"',)
    assert found(CONTENT)[0].facts == {"sound": ["tiny"]}


def test_without_time_to_read_all_it_is_said(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_cache, "_HASHING_SECONDS", -1.0)
    change_a_byte(tiny)
    [finding] = found(CONTENT)

    assert finding.state == "note"
    assert "tiny: sizes as they should be, contents not read" in finding.found


def test_a_file_in_the_folder_s_place_is_a_fault(cache: Path) -> None:
    cache.write_text("not a folder")
    [folder] = found(FOLDER)

    assert (folder.state, folder.found) == ("fault", f"{cache} is no directory")


def test_little_room_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    [folder] = found(FOLDER)

    assert folder.state == "note"
    assert "1.0 kB free" in folder.found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for a place where root may not write either: Linux's /proc")
def test_a_place_where_nobody_may_write_is_a_fault(monkeypatch: pytest.MonkeyPatch, doctor) -> None:
    monkeypatch.setenv("ONNXGPT_CACHE", "/proc/onnxgpt")
    [folder] = found(FOLDER)

    assert folder.state == "fault"
    assert "/proc/onnxgpt can't be made: /proc can't be written" in folder.found
    assert folder.commands == ('export ONNXGPT_CACHE="$HOME/.cache/onnxgpt"',)
    done = doctor()
    assert done.returncode == 1
    assert f"FAULT  cache folder: {folder.found}\n" in done.stdout


def as_nobody() -> dict[str, dict]:
    """The findings of an ordinary user: root has rights everywhere, so a child of this process gives them up."""
    if os.getuid() != 0:
        return {finding.name: dataclasses.asdict(finding) for finding in cache_findings()}
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.close(read)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            findings = {finding.name: dataclasses.asdict(finding) for finding in cache_findings()}
            with os.fdopen(write, "w") as stream:
                json.dump(findings, stream)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return json.loads(text)


@pytest.fixture
def open_way(tmp_path: Path) -> None:
    """Let other users come as far as the test's directory: pytest makes its own for one user."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.getuid() and not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o011)


@needs_users
@pytest.mark.usefixtures("open_way")
def test_a_folder_of_somebody_else_s_is_a_fault(cache: Path) -> None:
    cache.mkdir(mode=0o755)
    cache.chmod(0o555)
    finding = as_nobody()["cache folder"]
    cache.chmod(0o755)

    assert finding["state"] == "fault"
    assert f"{cache} can't be written (Permission denied), by user" in finding["found"]
    assert finding["advice"] == "make it yours, or set ONNXGPT_CACHE to a directory that is"


@needs_users
@pytest.mark.usefixtures("open_way")
def test_the_usual_folder_is_given_back_to_its_user(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONNXGPT_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    folder = cache / "onnxgpt"
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    finding = as_nobody()["cache folder"]
    folder.chmod(0o755)

    assert finding["state"] == "fault"
    assert finding["commands"] == [f'sudo chown -R "$(id -u):$(id -g)" "{folder}"']


@needs_users
@pytest.mark.usefixtures("open_way")
def test_a_model_that_may_not_be_read_is_a_fault(bundle: Path, cache: Path) -> None:
    for path in (cache, cache / "models", bundle):
        path.chmod(0o777)
    secret = bundle / "model.onnx.data"
    secret.chmod(0o000)
    findings = as_nobody()
    secret.chmod(0o644)

    assert findings["cache folder"]["state"] == "fault"
    assert f"{secret} can't be read by user" in findings["cache folder"]["found"]
    assert findings["cached models"]["state"] == "fault"
    assert list(findings["cached models"]["commands"]) == []  # nothing is to be removed for that


@needs_users
@pytest.mark.usefixtures("open_way")
def test_a_folder_within_that_may_not_be_written_is_a_fault(cache: Path) -> None:
    """As after `sudo onnxgpt pull`."""
    (cache / "models").mkdir(parents=True)
    cache.chmod(0o777)
    (cache / "models").chmod(0o555)
    finding = as_nobody()["cache folder"]
    (cache / "models").chmod(0o755)

    assert finding["state"] == "fault"
    assert f"{cache / 'models'} can't be entered and written by user" in finding["found"]


def test_a_damaged_package_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(EMBEDDED_BUNDLE, tmp_path / "bundle")
    change_a_byte(copy / "model.onnx.data")
    monkeypatch.setattr(doctor_cache, "find", lambda name: copy)
    [finding] = found(EMBEDDED)

    assert finding.state == "fault"
    assert finding.commands == ("pip install --force-reinstall --no-deps onnxgpt",)
    shutil.rmtree(copy)
    monkeypatch.setattr(doctor_cache, "find", lambda name: None)
    assert found(EMBEDDED)[0].found == "fairytale is not in the package"


def test_looking_changes_nothing(tiny: Path, bundle: Path, cache: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("*"))
    cache_findings()

    assert sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("*")) == before


def test_the_command_finds_a_broken_model(bundle: Path, doctor) -> None:
    change_a_byte(bundle / "model.onnx")
    done = doctor()

    assert done.returncode == 1
    assert f"FAULT  cached models: {bundle / 'model.onnx'} has sha256" in done.stdout
    assert f'         {REMOVE} "{bundle}"\n' in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 fault")
    subprocess.run(f'{REMOVE} "{bundle}"', shell=True, check=True)  # the command that was given
    assert doctor().returncode == 0
