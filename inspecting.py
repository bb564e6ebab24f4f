"""What `onnxgpt info` and `onnxgpt models` tell: a bundle described, and the catalogue with the families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .runtime.bundle import Bundle
from .runtime.manifest import IMPORTED, Manifest
from .runtime.memory import format_bytes
from .runtime.placement import shown_counts
from .runtime.settings import DEFAULT_SETTINGS, SessionSettings

if TYPE_CHECKING:
    from .runtime.opening import Place

_BYTES_OF_DTYPE = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1}


def describe(bundle: Bundle, settings: SessionSettings = DEFAULT_SETTINGS) -> dict[str, Any]:
    """A bundle as plain data: what the manifest says, memory, and where the nodes of the graph run.

    The graph is loaded once for that.

    Raises:
        BundleError: the graph cannot be loaded.
        ProviderError: the provider is not there, or would not run the graph.
    """
    from .runtime.foreign import with_graph_facts
    from .runtime.session import Session  # here, so that others need not load ONNX Runtime

    session = Session.open_bundle(bundle, settings)
    if not bundle.manifest.graph.inputs:  # of another exporter's directory its graph tells layers and heads
        bundle = with_graph_facts(bundle, session)
    manifest = bundle.manifest
    per_token = cache_bytes_per_token(manifest.architecture, cache_dtype(manifest))
    return {
        "name": manifest.name,
        "directory": str(bundle.directory),
        "source": manifest.source,
        "created_by": manifest.created_by,
        "architecture": manifest.architecture,
        "graph": {
            "file": manifest.graph.file,
            "dtype": manifest.graph.dtype,
            "operators": manifest.graph.operators,
            "target": manifest.graph.target,
            "wide_residual": manifest.graph.wide_residual,
        },
        "quantization": manifest.quantization,
        "parity": manifest.parity,
        "quality": manifest.quality,
        "bytes": {
            "files": sum(record.size for record in manifest.files.values()),
            "weights": bundle.weight_bytes,
            "cache_per_token": per_token,
            "cache_at_context": per_token * manifest.context_length,
        },
        "generation_defaults": bundle.read_json("generation_config.json"),
        "nodes": session.place.placement.nodes(),
        "provider": _described_place(session.place),
    }


def cache_dtype(manifest: Manifest) -> str:
    """The type of the cached keys and values."""
    return str((manifest.quantization or {}).get("kv_cache") or manifest.graph.dtype)


def cache_bytes_per_token(architecture: Mapping[str, Any], dtype: str) -> int:
    """Bytes of keys and values that one token of one sequence takes, over all layers."""
    elements = 2 * architecture["num_layers"] * architecture["num_kv_heads"] * architecture["head_size"]
    return int(elements) * _BYTES_OF_DTYPE[dtype]


def _described_place(place: Place) -> dict[str, Any]:
    """Where a session runs and why, with what fell back to the CPU beside a device."""
    on_cpu = place.provider == "cpu"
    return {
        "name": place.provider,
        "reason": place.reason,
        "device": None if on_cpu else {"number": place.device, "name": place.device_name},
        "fallen_back": {} if on_cpu else place.placement.fallen_back(),
    }


def description_rows(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values for people."""
    architecture, graph, sizes = description["architecture"], description["graph"], description["bytes"]
    source, nodes, provider = description["source"], description["nodes"], description["provider"]
    kv_heads = architecture["num_kv_heads"]
    heads = architecture.get("num_heads", kv_heads)  # of what others exported, not all is known
    grouped = f" ({kv_heads} for keys and values)" if kv_heads != heads else ""
    width = f", width {architecture['hidden_size']}" if "hidden_size" in architecture else ""
    context = architecture["context_length"]
    return [
        ("name", description["name"]),
        ("directory", description["directory"]),
        ("source", ", ".join(str(source[key]) for key in ("location", "revision", "license") if source.get(key))),
        ("family", architecture.get("family", "")),
        ("layers", f"{architecture['num_layers']}{width}"),
        ("heads", f"{heads} of {architecture['head_size']}{grouped}"),
        ("vocabulary", f"{architecture['vocab_size']:,} tokens"),
        ("context", f"{context:,} tokens"),
        ("graph", graph_line(graph, source)),
        ("quantization", recipe_line(description["quantization"])),
        ("weights", f"{format_bytes(sizes['weights'])} of {format_bytes(sizes['files'])} in all files"),
        (
            "cache",
            f"{format_bytes(sizes['cache_per_token'])} per token, "
            f"{format_bytes(sizes['cache_at_context'])} at {context:,} tokens",
        ),
        ("parity", parity_line(description["parity"])),
        ("quality", quality_line(description["quality"])),
        ("provider", _provider_line(provider)),
        ("nodes", _nodes_line(nodes, provider["fallen_back"])),
    ]


def _provider_line(provider: Mapping[str, Any]) -> str:
    device = provider["device"]
    where = "" if device is None else f" device {device['number']}"
    return f"{provider['name']}{where} ({provider['reason']})"


def _nodes_line(nodes: Mapping[str, int], fallen_back: Mapping[str, int]) -> str:
    """How many nodes are on each provider, and of those on the CPU beside a device which compute."""
    counts = ", ".join(f"{count} on {name}" for name, count in nodes.items())
    return f"{counts}; computing on the CPU: {shown_counts(fallen_back)}" if fallen_back else counts


def graph_line(graph: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    """What the graph is made of, or whose layout it was found in."""
    if graph["operators"] == IMPORTED:
        return f"{graph['file']}, {graph['dtype']} cache, as laid out by {source['kind']}, run on {graph['target']}"
    wide = ", residual stream in float32" if graph.get("wide_residual") else ""
    return f"{graph['dtype']}{wide}, {graph['operators']} operators, made for {graph['target']}"


def parity_line(parity: Mapping[str, Any] | None) -> str:
    """The parity report in one line, empty without one."""
    if not parity:
        return ""
    largest = max(case["max_log_probability_difference"] for case in parity["cases"])
    positions = sum(case["positions"] for case in parity["cases"])
    verdict = "the same as" if parity["passed"] else "NOT the same as"
    return (
        f"{verdict} {parity['reference']}: log-probabilities within {largest:.1e} at {positions} positions "
        f"(tolerance {parity['tolerance']:g}), {parity['greedy_identical']} of {parity['greedy_tokens']} greedy tokens"
    )


def recipe_line(recipe: Mapping[str, Any] | None) -> str:
    """A quantized bundle's recipe in one line, with the blocks of its matrices; empty without one.

    >>> recipe_line({"name": "int8", "layers": {"bits": 8, "block_size": 128}, "method": "gptq", "smooth": False})
    'int8: layers 8 bits in blocks of 128, gptq, not smoothed'
    """
    if not recipe:
        return ""
    if "kept" in recipe:
        return _kept_line(recipe)
    parts = [
        f"{role} {form['bits']} bits in blocks of {form['block_size']}"
        for role in ("layers", "down", "head")
        if (form := recipe.get(role))
    ]
    if raised := recipe.get("raised_matrices"):
        form = recipe["raised"]
        parts.append(f"{len(raised)} matrices {form['bits']} bits in blocks of {form['block_size']}")
    if recipe.get("method"):
        parts.append(recipe["method"])
    if recipe.get("kv_cache") is None or parts:  # where the cache alone changed, there was nothing to smooth
        parts.append("smoothed" if recipe.get("smooth") else "not smoothed")
    if recipe.get("kv_cache"):
        parts.append(f"{recipe['kv_cache']} cache")
    return f"{recipe['name']}: {', '.join(parts)}"


def _kept_line(recipe: Mapping[str, Any]) -> str:
    """What an export kept of a file's quantization."""
    counts = {"as in the file": recipe["kept"], "in full precision": recipe["full_precision"]}
    parts = [
        f"{', '.join(f'{count} {kind}' for kind, count in kinds.items())} {what}"
        for what, kinds in counts.items()
        if kinds
    ]
    return f"{recipe['name']}: matrices {', '.join(parts)}"


def quality_line(quality: Mapping[str, Any] | None) -> str:
    """The quality report in one line, empty without one."""
    if not quality:
        return ""
    return (
        f"mean KL {quality['mean_kl']:.2g} nats, perplexity ratio {quality['perplexity_ratio']:.4f}, "
        f"top-1 {quality['top1_agreement']:.1%} of {quality['reference']} on {quality['text']['name']}"
    )


def catalogue() -> list[dict[str, Any]]:
    """The models that have names, where each is on this machine (None: nowhere yet), and how a bundle is quantized."""
    from .models.catalog import CATALOG, find

    entries: list[dict[str, Any]] = []
    for entry in CATALOG.values():
        found = find(entry.name)
        recipe = Bundle.open(found).manifest.quantization if found and entry.kind == "bundle" else None
        entries.append(
            {
                "name": entry.name,
                "kind": entry.kind,
                "description": entry.description,
                "license": entry.license,
                "location": str(found) if found else None,
                "quantization": recipe["name"] if recipe else None,
            }
        )
    return entries


def families() -> list[dict[str, Any]]:
    """The families that can be exported: `model_type`, models of it, its name in GGUF, what is cut short."""
    from .models.families import FAMILIES

    return [
        {
            "model_type": family.model_type,
            "known_as": family.known_as,
            "gguf": family.gguf.architecture if family.gguf else None,
            "limits": family.limits or None,
        }
        for family in sorted(FAMILIES.values(), key=lambda family: family.model_type)
    ]


def families_as_markdown() -> str:
    """The table of families as README has it."""
    lines = ["| `model_type` | models | GGUF | limits |", "|---|---|---|---|"]
    for family in families():
        cells = (f"`{family['model_type']}`", family["known_as"], f"`{family['gguf']}`" if family["gguf"] else "–")
        lines.append(f"| {' | '.join(cells)} | {family['limits'] or '–'} |")
    return "\n".join(lines) + "\n"
