"""The broad road: optimum exports what this house has no GPT for, and the bundle is proven against transformers.

optimum traces transformers' own code to a graph of plain ONNX operators, with separate past and present. Such a graph
is run as any other that somebody else made (`runtime.foreign`); added here are the proof and the bundle around it.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from .._version import __version__
from ..models.checkpoint import license_of
from ..models.hub import fetch_snapshot, is_hub_id
from ..models.stored_tensors import open_weights
from ..models.tokenizer_files import tokenizer_files
from ..runtime.bundle import Bundle, file_sha256, refuse_existing, seal, staged_output
from ..runtime.errors import (
    CheckpointError,
    ExportError,
    OptionError,
    ParityError,
    SourceNotFoundError,
    UnsupportedModelError,
)
from ..runtime.foreign import open_directory, reads_in_pieces, with_graph_facts
from ..runtime.session import Session
from .parity import Logits, ParityReport, Progress, prove_against
from .plain_products import describe_products

ROUTE = "optimum"  # in the manifest: source.via
_TASK = "text-generation-with-past"
_KEPT = ("model.onnx", "model.onnx_data", "model.onnx.data", "config.json", "generation_config.json")


@dataclass(frozen=True)
class _Source:
    """A checkpoint in a local directory, and what the manifest says of it."""

    directory: Path
    name: str
    kind: str
    location: str
    revision: str | None

    def to_dict(self) -> dict[str, Any]:
        """The manifest's `source`."""
        _, files = open_weights(self.directory)
        return {
            "kind": self.kind,
            "location": self.location,
            "revision": self.revision,
            "license": license_of(self.directory),
            "sha256": {file.name: file_sha256(file) for file in files},
            "via": ROUTE,
        }


def export_with_optimum(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    revision: str | None,
    tokenizer: str | os.PathLike[str] | None,
    force: bool,
    progress: Progress | None,
) -> Bundle:
    """See `onnxgpt.export.export_with_optimum`."""
    refuse_existing(out, force=force)
    _report(progress, f"opening {source}")
    found = _find(source, revision)
    described = found.to_dict()  # opens the weights: what is damaged is told before minutes of work
    with staged_output(out, force=force) as directory:
        _report(progress, "exporting the graph with optimum")
        versions = _run_optimum(found, directory)
        _tidy(directory, found, None if tokenizer is None else Path(tokenizer))
        bundle = _described(directory, found.name, described | {"exporter": versions})
        report = prove_against(bundle, TransformersReference(found.directory, bundle), progress=progress)
        if not report.passed:
            raise ParityError(
                f"optimum's graph is not {found.name}: {'; '.join(report.failures())}; no bundle was written"
            )
        seal(directory, replace(bundle.manifest, parity=report.to_dict()))
    return Bundle.open(out)


def prove_optimum_parity(
    bundle: Bundle, source: str | os.PathLike[str], *, revision: str | None = None, progress: Progress | None = None
) -> ParityReport:
    """Compare a bundle of this route with its checkpoint, run by transformers. Errors as `export_with_optimum`."""
    return prove_against(bundle, TransformersReference(_find(source, revision).directory, bundle), progress=progress)


class TransformersReference:
    """transformers' own model in eager PyTorch, float32, as a `parity.Reference`."""

    def __init__(self, directory: Path, bundle: Bundle) -> None:
        """Load a checkpoint.

        Raises:
            ParityError: its vocabulary is another than the bundle's.
            UnsupportedModelError: transformers cannot open it.
        """
        import transformers

        self.name = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self.context_length = bundle.manifest.context_length
        self.vocab_size = int(bundle.manifest.architecture["vocab_size"])
        with _quietly():
            try:
                model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                    directory, attn_implementation="eager", local_files_only=True, trust_remote_code=False
                )
            except Exception as error:  # many trees of exceptions, one thing to say
                raise UnsupportedModelError(f"transformers can't open {directory} ({_one_line(error)})") from error
        self._model = model.to(torch.float32).eval()
        rows = int(self._model.config.get_text_config().vocab_size)
        if rows != self.vocab_size:
            raise ParityError(
                f"{directory} has a vocabulary of {rows}, the bundle one of {self.vocab_size}: expected the same model"
            )

    def logits(self, ids: Sequence[int]) -> list[Logits]:
        """See `Reference`."""
        return list(self._model(torch.tensor([list(ids)]), use_cache=False).logits[0].numpy())

    def greedy_logits(self, prompt: Sequence[int], count: int) -> list[Logits]:
        """See `Reference`."""
        ids, past = torch.tensor([list(prompt)]), None
        results: list[Logits] = []
        for step in range(count):
            mask = torch.ones((1, len(prompt) + step), dtype=torch.int64)
            output = self._model(ids, attention_mask=mask, past_key_values=past, use_cache=True)
            past = output.past_key_values
            results.append(output.logits[0, -1].numpy())
            ids = output.logits[:, -1:].argmax(dim=-1)
        return results


def _find(source: str | os.PathLike[str], revision: str | None) -> _Source:
    """A local directory of a Hugging Face directory or hub id."""
    path, text = Path(source), str(source)
    if path.is_dir():
        if revision is not None:
            raise OptionError(f"a revision ({revision!r}) is for a hub id (organisation/model), not for {text}")
        name = path.resolve().name
        found = _Source(path, name, "directory", name, None)
    elif not path.exists() and is_hub_id(text):
        snapshot = fetch_snapshot(text, revision)
        found = _Source(snapshot.directory, text.split("/")[1], "hub", text, snapshot.commit)
    else:
        raise SourceNotFoundError(f"no checkpoint {text!r}: optimum exports a Hugging Face directory or a hub id")
    if not (found.directory / "config.json").is_file():
        raise CheckpointError(f"{found.directory} has no config.json: optimum exports a Hugging Face checkpoint")
    return found


def _run_optimum(source: _Source, directory: Path) -> dict[str, str]:
    """Export to `directory`; return the versions of what did it."""
    with _quietly():
        try:
            from optimum.exporters.onnx import main_export
        except ImportError as error:
            raise ExportError(
                f"optimum's exporter can't be imported ({_one_line(error)}): install onnxgpt[optimum], in an "
                "environment of its own, since it needs an older transformers"
            ) from error
        try:
            main_export(
                str(source.directory),
                directory,
                task=_TASK,
                do_validation=False,  # the whole bundle is proven, through the runtime that users run
                local_files_only=True,
                trust_remote_code=False,
            )
        except (ValueError, KeyError, NotImplementedError) as error:
            raise UnsupportedModelError(f"optimum can't export {source.name}: {_one_line(error)}") from error
        except Exception as error:  # whatever a traced model meets
            raise ExportError(f"optimum failed on {source.name} ({_one_line(error)})") from error
    return {name: metadata.version(name) for name in ("optimum-onnx", "transformers", "torch")}


def _tidy(directory: Path, source: _Source, tokenizer: Path | None) -> None:
    """Leave the graph and its configs, and put the tokenizer beside them as every bundle has it."""
    for path in directory.iterdir():
        if path.name not in _KEPT:
            path.unlink()
    rows = _vocabulary(directory)
    for name, content in tokenizer_files(tokenizer or source.directory, vocab_size=rows).items():
        (directory / name).write_bytes(content)


def _vocabulary(directory: Path) -> int:
    """Rows of the embedding, as the config that optimum left tells them."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    return int(config.get_text_config().vocab_size)


def _described(directory: Path, name: str, source: dict[str, Any]) -> Bundle:
    """The directory with a manifest that tells what the graph does; nothing is written yet."""
    opened = open_directory(directory)
    manifest = replace(opened.manifest, name=name, source=source, created_by=f"onnxgpt {__version__}")
    bundle = Bundle(directory, manifest)
    session = Session.open_bundle(bundle)
    bundle = with_graph_facts(bundle, session)
    chunked = reads_in_pieces(session, bundle.manifest.context_length)
    graph = replace(bundle.manifest.graph, chunked_prefill=chunked)
    matrices = describe_products(ir.load(bundle.graph_path).graph)
    return replace(bundle, manifest=replace(bundle.manifest, graph=graph, matrices=matrices))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings of tracers and loaders: what matters is proven afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:159]}…"


def _report(progress: Progress | None, message: str) -> None:
    if progress is not None:
        progress(message, None)
