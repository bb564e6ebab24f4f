"""Environments and who can take part: nothing here needs a network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from compare.contestants import prepare
from compare.environments import Environment, UnavailableError, distribution_of, last_complaint
from compare.peers.ours import OnnxGpt
from compare.peers.peer import Peer, itself
from compare.texts import Text
from compare.workspace import Workspace
from tokenizers import Tokenizer


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    if sys.platform == "win32":
        pytest.skip("the peers' environments are made on POSIX systems: bin/python and signals")
    made = Environment(tmp_path_factory.mktemp("environments") / "empty")
    made.ensure([])
    return made


def test_an_environment_that_has_everything_is_used_as_it_is(environment: Environment) -> None:
    environment.ensure(["pip>=1"])

    versions = environment.versions(["pip", "no-such-package"])
    assert versions["pip"] is not None
    assert versions["no-such-package"] is None


def test_a_peer_that_can_not_be_installed_is_reported(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    peer = Peer(
        name="absent",
        runtime=OnnxGpt,
        environment=environment.directory.name,
        requirements=("no-such-package-of-onnxgpt",),
        prepare=lambda workspace: tmp_path,
        weights=itself,
    )
    workspace = Workspace(environment.directory.parent, tmp_path, "smollm2-135m-instruct")

    contestants, missing = prepare(workspace, {}, [], lambda message: None, [peer])

    assert contestants == []
    assert "no-such-package-of-onnxgpt" in missing["absent"]


def test_a_failing_call_tells_its_last_line(environment: Environment) -> None:
    with pytest.raises(UnavailableError, match="ValueError: no model there"):
        environment.run(["-c", "raise ValueError('no model there')"])
    with pytest.raises(UnavailableError, match="ended with status -9"):
        environment.run(["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])


def test_requirements_and_their_distributions() -> None:
    names = [distribution_of(each) for each in ("numpy", "torch==2.13.0", "optimum-onnx[onnxruntime]>=0.1", "a>1")]

    assert names == ["numpy", "torch", "optimum-onnx", "a"]


def test_complaints_name_no_address_and_no_directory() -> None:
    error = "ERROR: No match in https://index.example/simple or /some/where/wheels"

    assert last_complaint(f"Looking in indexes: x\n{error}\n\nWARNING: old\n") == "ERROR: No match in … or …"
    assert last_complaint("") == "no message"


def test_what_was_made_by_halves_is_made_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "environments", tmp_path / "models", "smollm2-135m-instruct")

    def fail(target: Path) -> None:
        target.mkdir()
        (target / "half").write_text("half", encoding="utf-8")
        raise UnavailableError("interrupted")

    with pytest.raises(UnavailableError):
        workspace.made("model", fail)
    found = workspace.made("model", lambda target: target.write_text("whole", encoding="utf-8"))

    assert found.read_text(encoding="utf-8") == "whole"
    assert workspace.made("model", fail) == found


def test_models_of_two_sources_are_kept_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    workspaces = [Workspace(tmp_path, tmp_path / "models", str(tmp_path / name)) for name in ("a", "b")]

    first, second = (workspace.made("model", lambda target: target.touch()) for workspace in workspaces)

    assert first != second


def test_a_text_is_cut_into_windows_from_a_character_on(tmp_path: Path) -> None:
    path = tmp_path / "tale.txt"
    path.write_text("Skip this. " + "Once upon a time there was a king. " * 40, encoding="utf-8")
    tokenizer = Path(__file__).parents[2] / "models" / "fairytale" / "bundle" / "tokenizer.json"
    text = Text.parse(f"{path}@11")

    windows = text.windows(tokenizer, tokens=70, window=32)

    assert [len(window) for window in windows] == [32, 32, 6]
    joined = [token for window in windows for token in window]
    assert Tokenizer.from_file(str(tokenizer)).decode(joined).startswith("Once upon a time")
    assert text.facts(windows)["tokens"] == 70
    assert text.name == "tale.txt@11"
    assert Text.parse("odd@name.txt") == Text(Path("odd@name.txt"))
