"""Hub ids through the real huggingface_hub client, against a small hub served on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .conftest import save_checkpoint, tiny_model

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Hub(BaseHTTPRequestHandler):
    """Two revisions of `org/tiny`, as the hub's interface for models answers for them."""

    directories: dict[str, Path]  # by commit

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:3] == ["api", "models", "org"] and parts[3] == "tiny":
            self._api(parts[4:])
        elif parts[:3] == ["org", "tiny", "resolve"]:
            self._file(COMMITS.get(parts[3], parts[3]), "/".join(parts[4:]), body=body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _api(self, rest: list[str]) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        commit = COMMITS.get(revision, revision)
        if commit not in self.directories:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        files = sorted(path for path in self.directories[commit].iterdir())
        if rest[0] == "tree":
            tree = [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40} for path in files]
            self._send(200, json.dumps(tree).encode(), {})
            return
        siblings = [{"rfilename": path.name} for path in files]
        self._send(200, json.dumps({"id": "org/tiny", "sha": commit, "siblings": siblings}).encode(), {})

    def _file(self, commit: str, name: str, *, body: bool) -> None:
        path = self.directories[commit] / name
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._send(200, content, {"ETag": etag, "X-Repo-Commit": commit}, body=body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool = True) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("hub")
    Hub.directories = {
        COMMITS["main"]: save_checkpoint(root / "main", tiny_model("llama")),
        COMMITS["v1"]: save_checkpoint(root / "v1", tiny_model("gpt2")),
    }
    (root / "main" / "README.md").write_text("---\nlicense: mit\n---\n")
    (root / "main" / "other.onnx").write_bytes(b"0" * 1000)
    weights = root / "v1" / "model.safetensors"  # this revision has pickles alone
    _as_pickle(weights)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def _as_pickle(weights: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()


def open_in_a_process(hub: str, home: Path, source: str, revision: str | None = None) -> dict:
    """What a fresh process opens or is told; huggingface_hub reads its settings when it is imported."""
    code = (
        "import json, sys\n"
        "from onnxgpt.models.checkpoint import open_checkpoint\n"
        "from onnxgpt.runtime.errors import OnnxGptError\n"
        "try:\n"
        "    opened = open_checkpoint(sys.argv[1], revision=sys.argv[2] or None)\n"
        "    print(json.dumps({'name': opened.name, 'family': opened.config.family, **opened.source}))\n"
        "except OnnxGptError as error:\n"
        "    print(json.dumps({'error': type(error).__name__, 'message': str(error)}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, source, revision or ""],
        env=os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_hub_id_is_fetched_once_and_its_commit_is_told(hub: str, tmp_path: Path) -> None:
    opened = open_in_a_process(hub, tmp_path, "org/tiny")
    assert (opened["name"], opened["family"], opened["kind"]) == ("tiny", "llama", "hub")
    assert (opened["location"], opened["revision"], opened["license"]) == ("org/tiny", COMMITS["main"], "mit")
    assert not list(tmp_path.rglob("other.onnx"))  # nothing is fetched that is not read


def test_a_revision_is_fetched_and_pickles_where_there_is_nothing_better(hub: str, tmp_path: Path) -> None:
    opened = open_in_a_process(hub, tmp_path, "org/tiny", "v1")
    assert (opened["family"], opened["revision"]) == ("gpt2", COMMITS["v1"])
    assert list(opened["sha256"]) == ["pytorch_model.bin"]


def test_missing_models_and_revisions_are_told(hub: str, tmp_path: Path) -> None:
    for source, revision in [("org/other", None), ("org/tiny", "v9")]:
        told = open_in_a_process(hub, tmp_path, source, revision)
        assert told["error"] == "SourceNotFoundError"
        assert source in told["message"]
        assert "\n" not in told["message"]
