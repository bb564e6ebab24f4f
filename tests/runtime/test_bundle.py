"""Bundles: checks on opening, and writing all or nothing."""

import json
import subprocess
import sys

import pytest

from onnxgpt.runtime.bundle import Bundle, file_sha256, seal, staged_output
from onnxgpt.runtime.errors import BundleError, BundleNotFoundError, OutputExistsError
from onnxgpt.runtime.manifest import GraphRecord, Manifest, read_manifest


def write(directory):
    directory.mkdir(exist_ok=True)
    (directory / "model.onnx").write_bytes(b"graph")
    (directory / "model.onnx.data").write_bytes(b"weights!")
    (directory / "tokenizer.json").write_text("{}")
    manifest = Manifest(name="tiny", graph=GraphRecord(), architecture={"context_length": 8}, source={})
    return seal(directory, manifest)


@pytest.fixture
def directory(tmp_path):
    write(tmp_path / "tiny")
    return tmp_path / "tiny"


def change(directory, edit):
    path = directory / "bundle.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def test_round_trip(directory):
    bundle = Bundle.open(directory)
    assert bundle.manifest == read_manifest(directory)
    assert bundle.weight_bytes == 13
    assert bundle.manifest.files["model.onnx"].sha256 == file_sha256(directory / "model.onnx")
    bundle.verify_hashes()


def test_not_there(tmp_path):
    with pytest.raises(BundleNotFoundError, match="does not exist"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"has no bundle\.json"):
        Bundle.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleNotFoundError, match="is a file"):
        Bundle.open(tmp_path / "file")


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_missing_file(directory, name):
    (directory / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        Bundle.open(directory)


def test_truncated_file(directory):
    (directory / "model.onnx.data").write_bytes(b"weigh")
    with pytest.raises(BundleError, match="has 5 bytes, the manifest says 8"):
        Bundle.open(directory)


def test_changed_content_is_found_by_the_hash(directory):
    (directory / "model.onnx.data").write_bytes(b"weights?")
    bundle = Bundle.open(directory)
    with pytest.raises(BundleError, match=r"model\.onnx\.data has sha256"):
        bundle.verify_hashes()


def test_wrong_version(directory):
    change(directory, lambda data: data.update(version=2))
    with pytest.raises(BundleError, match="bundle version 2, this onnxgpt reads version 1"):
        Bundle.open(directory)


@pytest.mark.parametrize("name", ["../secret", "a/../../b", "/etc/passwd", "C:\\x", "c:/x", "a//b", ""])
def test_paths_that_leave_the_bundle(directory, name):
    change(directory, lambda data: data["files"].update({name: {"size": 1, "sha256": ""}}))
    with pytest.raises(BundleError, match="expected a path inside the bundle"):
        Bundle.open(directory)
    write(directory)
    change(directory, lambda data: data["graph"].update(file=name))
    with pytest.raises(BundleError, match="expected a path inside the bundle"):
        Bundle.open(directory)


@pytest.mark.skipif(sys.platform == "win32", reason="making a link needs a right there")
def test_a_link_that_leaves_the_bundle(directory, tmp_path):
    (tmp_path / "outside").write_bytes(b"weights!")
    (directory / "model.onnx.data").unlink()
    (directory / "model.onnx.data").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="is a link that leaves the bundle"):
        Bundle.open(directory)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "else"}', "\udce4"])
def test_no_manifest(directory, text):
    (directory / "bundle.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleError):
        Bundle.open(directory)


@pytest.mark.parametrize("field", ["name", "graph", "architecture", "files"])
def test_missing_field(directory, field):
    change(directory, lambda data: data.pop(field))
    with pytest.raises(BundleError, match="lacks or misstates a field"):
        Bundle.open(directory)


def test_unlisted_tokenizer(directory):
    change(directory, lambda data: data["files"].pop("tokenizer.json"))
    with pytest.raises(BundleError, match=r"lists no tokenizer\.json"):
        Bundle.open(directory)


def test_output_appears_when_the_block_ends_well(tmp_path):
    with staged_output(tmp_path / "deep" / "out") as staging:
        write(staging)
        assert not (tmp_path / "deep" / "out").exists()
    Bundle.open(tmp_path / "deep" / "out").verify_hashes()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_nothing_appears_when_the_block_fails(tmp_path):
    def fail_halfway():
        with staged_output(tmp_path / "out") as staging:
            write(staging)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_refused_or_replaced(directory):
    before = (directory / "bundle.json").read_text()
    with pytest.raises(OutputExistsError, match="exists already"), staged_output(directory):
        pass
    with pytest.raises(RuntimeError), staged_output(directory, force=True):
        raise RuntimeError
    assert (directory / "bundle.json").read_text() == before
    with staged_output(directory, force=True) as staging:
        write(staging)
        (staging / "extra").write_text("new")
    assert (directory / "extra").exists()
    assert [path.name for path in directory.parent.iterdir()] == ["tiny"]


def test_force_replaces_bundles_only(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    with pytest.raises(OutputExistsError, match="has no bundle"), staged_output(tmp_path / "precious", force=True):
        pass
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years"


KILLED = """
import sys, time
from onnxgpt.runtime.bundle import staged_output
with staged_output(sys.argv[1]) as staging:
    (staging / "model.onnx").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="leftovers are kept there: no harmless way to see who lives")
def test_a_killed_writer_leaves_no_bundle_and_the_next_run_cleans_up(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "out")], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.kill()
    process.wait()
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.iterdir())) == 1
    with staged_output(tmp_path / "out") as staging:
        write(staging)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_writer_at_work_is_left_alone(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "out")], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        with staged_output(tmp_path / "out") as staging:
            write(staging)
        assert any(str(process.pid) in path.name for path in tmp_path.iterdir())
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="leftovers are kept there: no harmless way to see who lives")
def test_an_old_bundle_survives_a_kill_between_the_two_renames(directory):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    directory.rename(directory.parent / f".tiny.{gone.pid}.old.partial")
    with pytest.raises(OutputExistsError), staged_output(directory):
        pass
    Bundle.open(directory)
