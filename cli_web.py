"""The command that makes or shows a page that runs a bundle in the browser."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .loading import DEFAULT_MODEL, find_bundle
from .terminal import HouseCommand, note

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer


@click.command("web", cls=HouseCommand)
@click.argument("bundle", default=DEFAULT_MODEL)
@click.option("--out", metavar="DIR", help="The page's files, for any web server; must not exist.")
@click.option("--open", "show", is_flag=True, help="Serve the page on this machine and open it in the browser.")
@click.option("--runtime", metavar="DIR", help="A node_modules with onnxruntime-web and @huggingface/tokenizers.")
@click.option("--webgpu/--no-webgpu", default=True, help="Put in what runs on graphics cards (27 MB); default: yes.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="For --open; otherwise a free one.")
@click.option("--force", is_flag=True, help="Replace the page at --out.")
def web(bundle: str, out: str | None, show: bool, runtime: str | None, webgpu: bool, port: int, force: bool) -> None:
    """Make a page that runs BUNDLE in the browser.

    Nothing that is written there leaves it. Any web server can give it out;
    after the first visit it works without a network. ONNX Runtime for the web
    comes from npm:

    \b
    npm install --ignore-scripts onnxruntime-web @huggingface/tokenizers
    onnxgpt web --open
    onnxgpt web my-bundle --out page
    """
    if out is None and not show:
        raise click.UsageError("neither --out nor --open: say where to write the page, or show it")
    if port and not show:
        raise click.UsageError("--port has no effect without --open")
    if force and out is None:
        raise click.UsageError("--force has no effect without --out")
    from .runtime.bundle import Bundle
    from .web import page_server, size_line, write_page

    opened = Bundle.open(find_bundle(bundle))
    with ExitStack() as stack:
        page = Path(out) if out is not None else Path(stack.enter_context(tempfile.TemporaryDirectory())) / "page"
        modules = None if runtime is None else Path(runtime)
        written = write_page(opened, page, runtime=modules, webgpu=webgpu, force=force)
        note(f"{opened.manifest.name}: {size_line(written)}")
        if opened.manifest.quantization is not None and not written["unpacked"]:
            note("without onnx the page unpacks weights at every token: install onnxgpt[quantize] for a faster one")
        if out is not None:
            click.echo(out)
        if show:
            server = stack.enter_context(page_server(page, port))
            _serve(server, f"http://127.0.0.1:{server.server_address[1]}/")


def _serve(server: ThreadingHTTPServer, url: str) -> None:
    import webbrowser

    note(f"{url} (Ctrl+C ends it)")
    webbrowser.open(url)
    server.serve_forever()
