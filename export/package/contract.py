"""What a program in another language has to know of a packaged bundle: `contract.json`, and `CONTRACT.md` to read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any

import onnx
from onnx import TensorProto

from ..._version import __version__
from ...runtime.bundle import Bundle
from .generate_graph import FINISH_REASONS, GENERATE_FILE, PROMPT, Settings
from .text_graph import CONTINUATION, PROMPT_TEXT, TEXT_FILE
from .vectors import VECTORS_FILE

CONTRACT_FILE, CONTRACT_PAGE = "contract.json", "CONTRACT.md"
FORMAT = "onnxgpt-contract"
FORMAT_VERSION = 1

_MEANINGS = {
    "input_ids": "the new tokens; rows are right-padded",
    "attention_mask": "1 for tokens, 0 for padding; a row's sum is its length, new tokens included",
    "num_logits_to_keep": "logits of so many last positions; 0, or left out: of all",
    "logits": "one row per kept position",
    PROMPT: "the prompt's tokens, one at least",
    PROMPT_TEXT: "the prompt in UTF-8",
    "max_new_tokens": "the most tokens to generate",
    "temperature": "logits are divided by it; 0: greedy",
    "top_k": "only the k likeliest tokens; 0: all",
    "top_p": "only the likeliest tokens that together have this probability; 1: all",
    "repetition_penalty": "divides positive and multiplies negative logits of tokens that are there already; 1: none",
    "seed": "the 64 bits of the seed as a signed number",
    "end_ids": "tokens that end the text",
    "generated_ids": "the new tokens, an ending one included",
    "finish_reason": ", ".join(f"{number} {name}" for number, name in enumerate(FINISH_REASONS)),
    CONTINUATION: "the new text in UTF-8, without an ending token; one cut inside a character ends before it",
}


def write_contract(bundle: Bundle, directory: Path, defaults: Mapping[str, Any]) -> None:
    """Write both files into a directory that holds the bundle and the other files of its package.

    Args:
        bundle: what was packaged.
        directory: the copy of it, with `generate.onnx` and what else could be made.
        defaults: the bundle's generation defaults.
    """
    contract = make_contract(bundle, directory, defaults)
    text = json.dumps(contract, ensure_ascii=False, indent=1) + "\n"
    (directory / CONTRACT_FILE).write_text(text, encoding="utf-8")
    (directory / CONTRACT_PAGE).write_text(_page(contract), encoding="utf-8")


def make_contract(bundle: Bundle, directory: Path, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The contract as plain data: graphs with their inputs and outputs, the cache, the settings, the stop rules."""
    manifest = bundle.manifest
    names = [manifest.graph.file, GENERATE_FILE, TEXT_FILE]
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": manifest.name,
        "created_by": f"onnxgpt {__version__}",
        "context_length": manifest.context_length,
        "graphs": {name: _graph(directory / name) for name in names if (directory / name).is_file()},
        "cache": {
            "layout": ["batch", "kv_heads", "sequence", "head_size"],
            "shares_buffer": manifest.graph.shares_cache_buffer,
            "chunked_prefill": manifest.graph.chunked_prefill,
        },
        "settings": json.loads(json.dumps(asdict(Settings.of_bundle(defaults)))),  # tuples as lists
        "finish_reasons": list(FINISH_REASONS),
        "random": {"algorithm": "Threefry-2x32, 20 rounds", "number": "(first word >> 8) / 2^24", "counter": "step, 0"},
        "vectors": VECTORS_FILE,
    }


def _graph(path: Path) -> dict[str, Any]:
    model = onnx.load(str(path), load_external_data=False)
    defaults = {initializer.name for initializer in model.graph.initializer}
    return {
        "operators": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "inputs": [_value(value) | {"optional": value.name in defaults} for value in model.graph.input],
        "outputs": [_value(value) for value in model.graph.output],
    }


def _value(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    return {"name": value.name, "type": TensorProto.DataType.Name(tensor.elem_type).lower(), "shape": shape}


def _page(contract: Mapping[str, Any]) -> str:
    graphs, shares = contract["graphs"], contract["cache"]["shares_buffer"]
    step = next(iter(graphs))
    tables = "\n".join(f"### `{name}`\n\n{_table(graph)}" for name, graph in graphs.items())
    settings = "\n".join(f"- `{name}`: {value}" for name, value in contract["settings"].items())
    missing = f"\nThis tokenizer can't be written as a graph, so there is no `{TEXT_FILE}`.\n"
    return Template(_PAGE).substitute(
        name=contract["name"],
        context=contract["context_length"],
        step=step,
        tables=tables,
        settings=settings,
        without_text="" if TEXT_FILE in graphs else missing,
        sharing=_SHARED if shares else _SEPARATE,
        chunks=_CHUNKS if contract["cache"]["chunked_prefill"] else "The prompt is read in one piece.",
        domains=", ".join(f"`{domain}`" for domain in graphs[step]["operators"]),
    )


def _table(graph: Mapping[str, Any]) -> str:
    lines = ["| | name | type | shape | |", "|---|---|---|---|---|"]
    for way, values in (("in", graph["inputs"]), ("out", graph["outputs"])):
        lines += [f"| {way} | {row}" for row in _rows(values)]
    return "\n".join(lines) + "\n"


def _rows(values: list[dict[str, Any]]) -> Iterator[str]:
    """A line each; the cache's, which are the same for every layer, in one for keys and values of all."""
    caches = [value for value in values if value["name"].startswith(("past_key_values.", "present."))]
    for value in values:
        if value not in caches:
            yield _row(value, _MEANINGS.get(value["name"], ""))
    if caches:
        prefix = caches[0]["name"].split(".")[0]
        name = f"{prefix}.{{layer}}.key` and `.value"
        yield _row(caches[0] | {"name": name}, f"of each of {len(caches) // 2} layers, from 0 on")


def _row(value: Mapping[str, Any], meaning: str) -> str:
    shape = ", ".join(map(str, value["shape"]))
    optional = "optional; " if value.get("optional") else ""
    return f"`{value['name']}` | {value['type']} | [{shape}] | {optional}{meaning} |"


_SHARED = """Past and present may be one buffer, [1, kv_heads, capacity, head_size], bound to both: then nothing is
copied, and the buffer's length is the capacity. Or they are separate: a past is exactly as long as the row, each
present one step longer and the next step's past."""
_SEPARATE = """Past and present are separate: a past is exactly as long as the row, each present is longer by the new
tokens and is the next step's past."""
_CHUNKS = (
    "A prompt may be read in several pieces, one after the other, each on top of the past of those before (batch 1)."
)
_PAGE = """# $name: a contract for programs in any language

What is here runs in any binding of ONNX Runtime (1.23 or later; operators of $domains), with nothing else installed.
The same in plain data: `contract.json`. What a port must compute: `vectors.json`. All graphs share the weights in
`$step.data`, so the files stay in one directory. ONNX Runtime sends telemetry unless `ORT_DISABLE_TELEMETRY=1` is in
the environment before it is loaded.

## Three ways

1. `text.onnx`: text in, text out, in one call.
2. `generate.onnx`: token ids in, token ids out, in one call; for a tokenizer of your own (`tokenizer.json`).
3. `$step`: one step of a loop of your own, where text is to be streamed.
$without_text
$tables
## Settings of the one-call graphs

Each is a vector with one number (`end_ids`: any count). An empty vector stands for the bundle's own:

$settings

Prompt and new tokens together never have more than $context tokens, the context's length.

## A loop of your own

1. Give `input_ids` the prompt, [1, n], `attention_mask` n ones, and every past with a sequence of 0 tokens. Positions
   come from the mask. The last row of `logits` is for the next token.
2. Choose a token (below). End where it is an end token, at the limit, or where the context is full.
3. Give the token alone as `input_ids`, [1, 1], one more 1 in the mask, and as past what was present. Again from 2.

$sharing
$chunks
Several rows: read each prompt by itself into its row of the cache, then step all rows together. Rows are
right-padded: a row's mask is as many ones as it has tokens, then zeros.

## From logits to a token

In this order: the repetition penalty, once for each token that the prompt or the new text has; division by the
temperature; top-k (tokens as likely as the last of them stay); top-p (of the tokens from the likeliest on, those
before which less than top_p is gathered). Greedy: the largest logit, the smallest id among equal ones. Else the
number of the step, n (below), in double precision: shares exp(logit - largest logit) in order of token ids, and the
first token whose running sum of shares is greater than n times their total.

## Random numbers

Threefry-2x32 with 20 rounds, key (seed's low word, seed's high word), counter (step, sequence): step is the index of
the new token from 0, sequence is 0 for a single text. Words have 32 bits and sums wrap around.

```
k2 = k0 xor k1 xor 0x1BD11BDA
x0 = step + k0        x1 = sequence + k1
for i = 0 ... 19:
    x0 = x0 + x1
    x1 = rotl(x1, R[i mod 8]) xor x0            R = 13 15 26 6 17 29 16 24
    if i mod 4 = 3:
        j = i div 4 + 1
        x0 = x0 + k[j mod 3]
        x1 = x1 + k[(j + 1) mod 3] + j
n = (x0 div 2^8) / 2^24
```

## Vectors

`vectors.json` holds, with a `tolerance` in log-probability: `random` (seeds as text, the two words, the number);
`tokenizer` (a text, its ids, and the text of these ids); `streams` (ids, the piece of text that each gives, and the
rest at the end: pieces never break a character); `logits` (log-probabilities of the likeliest tokens at some
positions of a text); `texts` (prompt, options, and the ids and text that come out; they are cut where a difference of
the tolerance's size could change a token, so they have to come out whole). `onnxgpt verify DIR --vectors` checks them
with the Python runtime on the machine at hand.
"""
