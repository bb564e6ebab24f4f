"""A page that runs a bundle in the browser: written as static files for any host, or served on this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .runtime.bundle import Bundle, file_sha256, staged_output
from .runtime.errors import OptionError
from .runtime.memory import format_bytes

PAGE_FILE = "page.json"
_EXAMPLES = Path(__file__).parent / "examples"
_UNPACKED = "unpacked.onnx"
_ORT, _TOKENIZERS = "onnxruntime-web", "@huggingface/tokenizers"
_RUNTIME_FILES = (
    f"{_ORT}/dist/ort.wasm.min.mjs",
    f"{_ORT}/dist/ort-wasm-simd-threaded.mjs",
    f"{_ORT}/dist/ort-wasm-simd-threaded.wasm",
    f"{_TOKENIZERS}/dist/tokenizers.min.mjs",
)
_WEBGPU_FILES = (
    f"{_ORT}/dist/ort.webgpu.min.mjs",
    f"{_ORT}/dist/ort-wasm-simd-threaded.asyncify.mjs",
    f"{_ORT}/dist/ort-wasm-simd-threaded.asyncify.wasm",
)
_OF_A_BUNDLE = ("bundle.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def write_page(
    bundle: Bundle, out: Path, *, runtime: Path | None = None, webgpu: bool = True, force: bool = False
) -> dict[str, Any]:
    """Write the page and the bundle into the directory `out`, whole or not at all.

    Args:
        bundle: what the page runs.
        out: the directory; any web server can give out what is in it.
        runtime: a `node_modules` with onnxruntime-web and @huggingface/tokenizers; None looks for one, see
            `find_runtime`.
        webgpu: put in what runs on graphics cards too.
        force: replace a page at `out`.

    Returns:
        What was written: the page's own code and everything, in bytes; and whether blocks are unpacked at loading.

    Raises:
        OptionError: no onnxruntime-web, or a bundle for other machines.
        OutputExistsError: `out` exists and `force` is false, or is no page.
    """
    target = bundle.manifest.graph.target
    if target not in ("cpu", "web"):
        raise OptionError(f"{bundle.directory} is made for {target}: expected cpu or web; export the model for cpu")
    modules = find_runtime(runtime)
    with staged_output(out, force=force, marker=PAGE_FILE) as staging:
        _copy_code(staging)
        own_code = _size(staging)
        needed = (*_RUNTIME_FILES, *(_WEBGPU_FILES if webgpu else ()))
        _copy(staging / "runtime", [modules / name for name in needed])
        unpacked = _copy_bundle(bundle, staging / "bundle")
        page = {"bundle": "bundle/", "unpacked": _UNPACKED if unpacked else None, "webgpu": webgpu}
        (staging / PAGE_FILE).write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")
        _fill_in_service_worker(staging)
        return {"own_code": own_code, "bytes": _size(staging), "unpacked": unpacked}


def find_runtime(given: Path | None) -> Path:
    """The `node_modules` with what the page needs: `given`, or of this directory, those above it, or a checkout's.

    Raises:
        OptionError: none, or `given` lacks a file.
    """
    here = Path.cwd()
    places = [given] if given is not None else [
        *(parent / "node_modules" for parent in (here, *here.parents)),
        _EXAMPLES / "node_modules",
    ]  # fmt: skip
    for place in places:
        if all((place / name).is_file() for name in _RUNTIME_FILES):
            return place
    found = "no node_modules with them here" if given is None else f"{given} lacks them"
    raise OptionError(
        f"the page needs {_ORT} and {_TOKENIZERS}, and {found}: run "
        f"`npm install --ignore-scripts {_ORT} {_TOKENIZERS}` here, "
        "or name the node_modules that has them with --runtime"
    )


def _copy_code(staging: Path) -> None:
    _copy(staging, sorted((_EXAMPLES / "web" / "page").iterdir()))
    _copy(staging / "javascript", sorted((_EXAMPLES / "javascript").glob("*.js")))


def _copy(directory: Path, files: list[Path]) -> None:
    directory.mkdir(exist_ok=True)
    for path in files:
        shutil.copyfile(path, directory / path.name)


def _copy_bundle(bundle: Bundle, directory: Path) -> bool:
    """Copy the bundle; where onnx is installed add a graph that unpacks its blocks. Whether it did."""
    directory.mkdir()
    for name in (*bundle.manifest.files, "bundle.json"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.directory / name, directory / name)
    try:
        from .export.package.web_graph import unpacking_graph
    except ModuleNotFoundError:
        return False
    graph = unpacking_graph(bundle.graph_path)
    if graph is not None:
        (directory / _UNPACKED).write_bytes(graph)
    return graph is not None


def _fill_in_service_worker(staging: Path) -> None:
    """Name the version, by the hash of everything, and the files to fetch at once; others are kept when they come."""
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    digest = hashlib.sha256("".join(file_sha256(path) for path in files).encode())
    shell = ["./"] + [
        path.relative_to(staging).as_posix()
        for path in files
        if path.parent in (staging, staging / "javascript") and path.name not in ("service-worker.js", "index.html")
    ]
    worker = staging / "service-worker.js"
    text = worker.read_text(encoding="utf-8")
    text = text.replace('"development"', json.dumps(digest.hexdigest()[:16])).replace('["./"]', json.dumps(shell), 1)
    worker.write_text(text, encoding="utf-8")


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def size_line(written: dict[str, Any]) -> str:
    """What was written, in a line."""
    return f"{format_bytes(written['bytes'])}, of which the page's own code {format_bytes(written['own_code'])}"


class _PageHandler(SimpleHTTPRequestHandler):
    """Gives out files, with the headers that let a page have threads; and says nothing."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        """Add the headers."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


def page_server(directory: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a page on this machine alone (127.0.0.1); port 0 takes a free one. `serve_forever` runs it.

    Raises:
        OptionError: the port is taken.
    """
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_PageHandler, directory=str(directory)))
    except OSError as error:
        raise OptionError(f"port {port} can't be used ({error.strerror}): give another --port") from error
