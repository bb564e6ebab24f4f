"""Directories that others exported: what optimum, onnxruntime-genai's builder and transformers.js leave, as a Bundle.

They have no manifest, so one is made in memory: of the graph's inputs and outputs only ONNX Runtime tells, when the
session opens; from the config files beside it come the context's length, token ids, and whether past and present may
share a buffer. Nothing is written, and nothing is known of how sound the files are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from .bundle import TOKENIZER_FILE, Bundle, refuse_existing, seal, staged_output
from .errors import BundleError
from .manifest import IMPORTED, MANIFEST_NAME, FileRecord, GraphRecord, Manifest, check_member_name
from .session import Session
from .settings import SessionSettings

GENAI_FILE = "genai_config.json"
GENERATION_FILE = "generation_config.json"
JAVASCRIPT_FOLDER = "onnx"  # where transformers.js looks for graphs

# Where several graphs are there: by precision first, then one at the top before one in the folder, a plain graph before
# a merged one. Half precision comes late, since a CPU has to convert it.
PRECISIONS = ("", "_quantized", "_int8", "_uint8", "_q4", "_bnb4", "_fp16", "_q4f16")
_STEMS = ("model", "decoder_model_merged")
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_sequence_length", "max_seq_len")
_HEADS_NAMES = ("num_attention_heads", "n_head", "num_heads")
_WIDTH_NAMES = ("hidden_size", "n_embd", "d_model")
_SEARCH_NAMES = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "min_length",
    "no_repeat_ngram_size",
)
_TOKEN_NAMES = ("bos_token_id", "eos_token_id", "pad_token_id")
_NO_LIMIT = 1 << 24  # tokens; a tokenizer's model_max_length beyond it means that none was given

Progress = Callable[[str, float | None], None]


def open_any(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle, or what another exporter wrote: its directory, or one of the graphs in it.

    Raises:
        BundleError: as `Bundle.open` and `open_directory`.
    """
    root = Path(path)
    if (root / MANIFEST_NAME).is_file() or not holds_graphs(root):
        return Bundle.open(root)
    return (_bundle_of_graph(root) if root.is_file() else None) or open_directory(root)


def holds_graphs(path: Path) -> bool:
    """Whether a path is an ONNX graph, or a directory where an exporter would leave some."""
    return path.suffix == ".onnx" if path.is_file() else path.is_dir() and bool(_graphs(path))


def open_directory(path: Path) -> Bundle:
    """Open a directory that another exporter wrote, or a graph in it, with a manifest made in memory.

    Raises:
        BundleError: no graph that can be run alone, no tokenizer, no known context length, or a broken config file.
    """
    root, graph = _place(path) if path.is_file() else (path, None)
    genai = _read_json(root / GENAI_FILE)
    configured = _genai_decoder(genai).get("filename")
    if graph is None:
        graph = _chosen(root, configured)
    if not (root / TOKENIZER_FILE).is_file():
        raise BundleError(
            f"{root} has no {TOKENIZER_FILE}: save the tokenizer there with transformers "
            "(AutoTokenizer.from_pretrained(…).save_pretrained(…)), or fetch the whole directory"
        )
    told = _told(root, genai)
    files = _files(root, graph)
    shares = graph == configured and _shares_buffer(genai)
    manifest = Manifest(
        name=root.resolve().name,
        graph=GraphRecord(
            file=graph,
            operators=IMPORTED,
            shares_cache_buffer=shares,
            chunked_prefill=shares,  # onnxruntime-genai continues conversations on such graphs; of others nobody knows
            foreign=True,
        ),
        architecture=_architecture(root, genai, files),
        source={"kind": _layout(graph, genai), "location": str(root)},
        files=files | {name: FileRecord(0, "") for name in told},
    )
    return Bundle(root, manifest, told)


def import_directory(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Copy what another exporter wrote as a bundle: with a manifest, hashes, and facts read from the graph.

    The graph is loaded once from the copy, which shows that it is whole. It is tried, too, whether it reads a text in
    pieces as it reads it at once: then prompts are read in chunks, and guessed tokens can be checked.

    Args:
        source: its directory, or one of the graphs in it; `open_any` tells which one is taken of several.
        out: the bundle to make.
        force: replace a bundle at `out`.
        threads: inside an operator; None lets ONNX Runtime choose.
        progress: is told what happens.

    Raises:
        BundleError: as `open_any`; or `source` is a bundle already.
        OutputExistsError: `out` exists and `force` is false.
    """
    refuse_existing(out, force=force)
    found = open_any(source)
    if not found.manifest.graph.foreign or (found.directory / MANIFEST_NAME).is_file():
        raise BundleError(f"{found.directory} is a bundle already: copy the directory, there is nothing to import")
    with staged_output(out, force=force) as directory:
        if progress is not None:
            progress(f"copying {found.manifest.name}", None)
        _copy(found, directory)
        if progress is not None:
            progress("trying the graph", None)
        named = replace(found.manifest, name=Path(out).absolute().name, created_by=f"onnxgpt {__version__}")
        copied = Bundle(directory, named)
        session = Session.open_bundle(copied, SessionSettings(threads=threads))
        manifest = with_graph_facts(copied, session).manifest
        chunked = reads_in_pieces(session, manifest.context_length)
        seal(directory, replace(manifest, graph=replace(manifest.graph, chunked_prefill=chunked)))
    return Bundle.open(out)


def with_graph_facts(bundle: Bundle, session: Session) -> Bundle:
    """A foreign bundle whose manifest tells what only its graph does: layers, heads, vocabulary, types and names."""
    layout = session.spec.layout
    heads, size = layout.layers[0]
    facts = {
        "num_layers": len(layout.layers),
        "num_kv_heads": heads,
        "head_size": size,
        "vocab_size": session.spec.vocab_size,
    }
    graph = replace(
        bundle.manifest.graph,
        dtype=layout.dtype.name,
        inputs=session.input_names,
        outputs=session.output_names,
    )
    architecture = bundle.manifest.architecture | facts
    return replace(bundle, manifest=replace(bundle.manifest, graph=graph, architecture=architecture))


def reads_in_pieces(session: Session, context_length: int) -> bool:
    """Whether a graph gives for several tokens on top of a past what it gives for the same text read at once.

    A graph that was traced with a single new token, or one that scales activations over all it reads, does not.
    """
    length = min(24, context_length)
    ids = np.random.default_rng(0).integers(0, session.spec.vocab_size, (1, length))
    results = []
    for cuts in ([], [length // 3, length // 3 + 1, length // 2]):
        with session.new_cache(capacity=length, limit=length) as cache:
            try:
                parts = [session.step(part, cache, keep=0)[0] for part in np.split(ids, cuts, axis=1) if part.size]
            except Exception:  # whatever kernel meets a shape that was not traced
                return False
            results.append(np.concatenate([part.astype(np.float64) for part in parts]))
    whole, pieces = (logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True) for logits in results)
    return bool(np.abs(whole - pieces).max() <= (1e-3 if session.spec.logits_dtype == np.float32 else 2e-2))


# Which graph


def _bundle_of_graph(path: Path) -> Bundle | None:
    """The bundle whose graph a path names."""
    for root in (path.parent, path.parent.parent):
        if (root / MANIFEST_NAME).is_file():
            bundle = Bundle.open(root)
            if bundle.graph_path.resolve() == path.resolve():
                return bundle
    return None


def _place(path: Path) -> tuple[Path, str]:
    """The directory that a graph belongs to, and the graph's name in it."""
    inside = path.parent.name == JAVASCRIPT_FOLDER and not (path.parent / TOKENIZER_FILE).is_file()
    root = path.parent.parent if inside else path.parent
    return root, path.relative_to(root).as_posix()


def _graphs(root: Path) -> list[str]:
    found = [*root.glob("*.onnx"), *(root / JAVASCRIPT_FOLDER).glob("*.onnx")]
    return sorted(path.relative_to(root).as_posix() for path in found if path.is_file())


def _chosen(root: Path, configured: object) -> str:
    if configured is not None:
        check_member_name(configured, root / GENAI_FILE)
        if not (root / str(configured)).is_file():
            raise BundleError(f"{root} lacks {configured}, which {GENAI_FILE} names: fetch the whole directory")
        return str(configured)
    found = _graphs(root)
    names = [Path(name).name for name in found]
    if any(name.startswith("encoder_model") for name in names):
        raise BundleError(f"{root} holds an encoder-decoder model (encoder_model.onnx): only GPTs run here")
    for precision in PRECISIONS:
        for folder in ("", f"{JAVASCRIPT_FOLDER}/"):
            for stem in _STEMS:
                if (name := f"{folder}{stem}{precision}.onnx") in found:
                    return name
    if any(name.startswith("decoder_") for name in names):
        raise BundleError(
            f"{root} holds a decoder in two graphs ({', '.join(found)}): expected one; merge them with optimum's "
            "merge_decoders to decoder_model_merged.onnx, or export the model again"
        )
    if len(found) != 1:
        raise BundleError(
            f"{root} holds {', '.join(found)}: say which one by giving its path, such as {root / found[0]}"
        )
    return found[0]


def _files(root: Path, graph: str) -> dict[str, FileRecord]:
    """The graph, what may be its weights, and all at the top that is no other graph's: sizes without hashes."""
    places = [root] if "/" not in graph else [root, (root / graph).parent]
    others = [name for name in _graphs(root) if name != graph]
    files = {}
    for path in sorted(path for place in places for path in place.iterdir() if path.is_file()):
        name = path.relative_to(root).as_posix()
        rivals = [other for other in others if name.startswith(other)]
        if name == graph or not rivals or (name.startswith(graph) and len(graph) > max(map(len, rivals))):
            files[name] = FileRecord(path.stat().st_size, "")
    return files


def _layout(graph: str, genai: Mapping[str, Any]) -> str:
    if genai:
        return "onnxruntime-genai"
    return "transformers.js" if graph.startswith(f"{JAVASCRIPT_FOLDER}/") else "optimum"


# What the config files tell


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{path} is not JSON ({error}): fetch it again") from error
    if not isinstance(data, dict):
        raise BundleError(f"{path} holds {type(data).__name__}: expected a JSON object")
    return data


def _section(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    found: Any = data
    for name in names:
        found = found.get(name, {})
        if not isinstance(found, dict):
            return {}
    return dict(found)


def _genai_decoder(genai: Mapping[str, Any]) -> dict[str, Any]:
    return _section(genai, "model", "decoder")


def _shares_buffer(genai: Mapping[str, Any]) -> bool:
    return _section(genai, "search").get("past_present_share_buffer") is True


def _first_number(names: Sequence[str], *places: Mapping[str, Any]) -> int | None:
    found = (place.get(name) for place in places for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def _architecture(root: Path, genai: Mapping[str, Any], files: Mapping[str, FileRecord]) -> dict[str, Any]:
    """What is known before the graph is loaded, under the names of a bundle's manifest."""
    config = _read_json(root / "config.json")
    if config.get("is_encoder_decoder") is True:
        raise BundleError(f"{root / 'config.json'} tells of an encoder-decoder model: only GPTs run here")
    text = _section(config, "text_config")
    model, decoder = _section(genai, "model"), _genai_decoder(genai)
    limit = _read_json(root / "tokenizer_config.json").get("model_max_length")
    context = _first_number(("context_length",), model) or _first_number(_CONTEXT_NAMES, text, config)
    if context is None and isinstance(limit, int) and 0 < limit < _NO_LIMIT:
        context = limit
    if context is None:
        raise BundleError(
            f"{root} tells no context length: expected one of {', '.join(_CONTEXT_NAMES)} in config.json; add it there"
        )
    heads = _first_number(_HEADS_NAMES, decoder, text, config)
    width = _first_number(_WIDTH_NAMES, decoder, text, config)
    known = {
        "family": text.get("model_type") or config.get("model_type") or model.get("type"),
        "context_length": context,
        "hidden_size": width,
        "num_heads": heads,
        "num_kv_heads": _first_number(("num_key_value_heads", "num_kv_heads"), decoder, text, config) or heads,
        "head_size": _first_number(("head_size", "head_dim"), decoder, text, config)
        or (width // heads if width and heads else None),
        "vocab_size": _first_number(("vocab_size",), model, text, config),
    }
    return {name: value for name, value in known.items() if value is not None}


def _told(root: Path, genai: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """JSON files that a bundle has and this directory has not, from what onnxruntime-genai's config says instead."""
    if not genai or (root / GENERATION_FILE).is_file():
        return {}
    tokens, search = _section(genai, "model"), _section(genai, "search")
    wanted = [(tokens, _TOKEN_NAMES), (search, _SEARCH_NAMES)]
    return {GENERATION_FILE: {name: place[name] for place, names in wanted for name in names if name in place}}


def _copy(found: Bundle, directory: Path) -> None:
    for name in found.manifest.files:
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in found.told:
            target.write_text(json.dumps(found.told[name], indent=1) + "\n", encoding="utf-8")
        else:
            shutil.copyfile(found.directory / name, target)
