"""Directories as other exporters leave them, made of a bundle of ours by rewiring its graph. A real model in each.

What they compute is what the bundle computes, so its text is what they have to give; but only if they are fed what
their own inputs ask for: each input that is added decides over the result.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxgpt.runtime.bundle import Bundle

COPIED = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json")
Rewiring = Callable[[onnx.GraphProto], None]


def write_foreign(
    bundle: Bundle, directory: Path, *rewirings: Rewiring, file: str = "model.onnx", data: str | None = None
) -> Path:
    """Write a bundle's graph, rewired, and its config files, without a manifest.

    Args:
        bundle: of a GPT with learned positions and past key values.
        directory: to be written to; it may hold another graph already.
        rewirings: what to change, in this order.
        file: the graph's path in it.
        data: the name of the file with the weights, beside the graph; None: in the graph.
    """
    model = onnx.load(bundle.graph_path)
    for rewire in rewirings:
        rewire(model.graph)
    path = directory / file
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, save_as_external_data=data is not None, location=data)
    for name in COPIED:
        shutil.copyfile(bundle.directory / name, directory / name)
    return directory


def write_genai_config(directory: Path, *, shares: bool, filename: str = "model.onnx") -> None:
    """The config that onnxruntime-genai's builder writes, instead of those of Hugging Face."""
    config = json.loads((directory / "config.json").read_text())
    generation = json.loads((directory / "generation_config.json").read_text())
    names = {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"}
    decoder = {
        "filename": filename,
        "head_size": config["n_embd"] // config["n_head"],
        "num_attention_heads": config["n_head"],
        "num_key_value_heads": config["n_head"],
        "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask"} | names,
    }
    model = {"type": "gpt2", "context_length": config["n_positions"], "vocab_size": config["vocab_size"]}
    model |= {"eos_token_id": generation["eos_token_id"], "bos_token_id": 0, "decoder": decoder}
    search = {"do_sample": True, "temperature": 0.5, "top_k": 7, "past_present_share_buffer": shares, "num_beams": 1}
    (directory / "genai_config.json").write_text(json.dumps({"model": model, "search": search}))
    for name in ("config.json", "generation_config.json"):
        (directory / name).unlink()


def without_logits_to_keep(graph: onnx.GraphProto) -> None:
    """All positions' logits in every step, as optimum and onnxruntime-genai give them."""
    _drop_input(graph, "num_logits_to_keep")
    if not any(item.name == "num_logits_to_keep" for item in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "num_logits_to_keep"))


def scalar_logits_to_keep(graph: onnx.GraphProto) -> None:
    """`num_logits_to_keep` as a scalar without a default, as newer exports for transformers.js have it."""
    _drop_input(graph, "num_logits_to_keep")
    _drop_initializer(graph, "num_logits_to_keep")
    _rename_uses(graph, "num_logits_to_keep", "keep_list")
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one_entry"))
    graph.node.insert(0, helper.make_node("Reshape", ["num_logits_to_keep", "one_entry"], ["keep_list"]))
    graph.input.append(helper.make_tensor_value_info("num_logits_to_keep", TensorProto.INT64, []))


def position_ids(graph: onnx.GraphProto) -> None:
    """Positions from an input instead of the mask."""
    lookup = next(node for node in graph.node if node.op_type == "Gather" and "position_embedding" in node.input[0])
    lookup.input[1] = "position_ids"
    graph.input.append(helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "sequence"]))


def cache_branch(graph: onnx.GraphProto) -> None:
    """With `use_cache_branch` false the past is not read, as in optimum's merged decoders."""
    graph.initializer.extend(
        numpy_helper.from_array(np.array([value], np.int64), name)
        for name, value in (("branch_start", 0), ("branch_axis", 2), ("branch_all", 1 << 30))
    )
    nodes = [
        helper.make_node("Cast", ["use_cache_branch"], ["branch_number"], to=TensorProto.INT64),
        helper.make_node("Mul", ["branch_number", "branch_all"], ["branch_end"]),
    ]
    for item in [item for item in graph.input if item.name.startswith("past")]:
        _rename_uses(graph, item.name, f"{item.name}.taken")
        nodes.append(
            helper.make_node("Slice", [item.name, "branch_start", "branch_end", "branch_axis"], [f"{item.name}.taken"])
        )
    _insert_first(graph, nodes)
    graph.input.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))


def half_precision(graph: onnx.GraphProto) -> None:
    """Caches and logits in 16 bits."""
    casts = []
    for item in [item for item in graph.input if item.name.startswith("past")]:
        _rename_uses(graph, item.name, f"{item.name}.single")
        item.type.tensor_type.elem_type = TensorProto.FLOAT16
        casts.append(helper.make_node("Cast", [item.name], [f"{item.name}.single"], to=TensorProto.FLOAT))
    _insert_first(graph, casts)
    for item in [item for item in graph.output if item.name == "logits" or item.name.startswith("present")]:
        _rename_everywhere(graph, item.name, f"{item.name}.single")
        item.type.tensor_type.elem_type = TensorProto.FLOAT16
        graph.node.append(helper.make_node("Cast", [f"{item.name}.single"], [item.name], to=TensorProto.FLOAT16))


def named(past: str, present: str) -> Rewiring:
    """Other names of the cache, such as `past_key_values.{layer}.decoder.{kind}`."""

    def rewire(graph: onnx.GraphProto) -> None:
        for side, pattern in ((graph.input, past), (graph.output, present)):
            for item in [item for item in side if item.name.startswith(("past", "present"))]:
                _, layer, kind = item.name.split(".")
                new = pattern.format(layer=layer, kind=kind)
                _rename_everywhere(graph, item.name, new)
                item.name = new

    return rewire


def open_head_size(graph: onnx.GraphProto) -> None:
    """The head size left open, as onnxruntime-genai's builder does."""
    for item in (*graph.input, *graph.output):
        if item.name.startswith(("past", "present")):
            item.type.tensor_type.shape.dim[3].dim_param = "kv_cache_dim"


def depends_on_the_piece(graph: onnx.GraphProto) -> None:
    """Logits scaled by how many tokens are read at once, as activations are that are quantized over all of them."""
    _rename_everywhere(graph, "logits", "logits.plain")
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "piece_axis"))
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["piece_shape"]),
        helper.make_node("Gather", ["piece_shape", "piece_axis"], ["piece_whole"]),
        helper.make_node("Cast", ["piece_whole"], ["piece_scale"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["logits.plain", "piece_scale"], ["logits"]),
    ]
    graph.node.extend(nodes)


def _insert_first(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    for position, node in enumerate(nodes):
        graph.node.insert(position, node)


def _drop_input(graph: onnx.GraphProto, name: str) -> None:
    for item in [item for item in graph.input if item.name == name]:
        graph.input.remove(item)


def _drop_initializer(graph: onnx.GraphProto, name: str) -> None:
    for item in [item for item in graph.initializer if item.name == name]:
        graph.initializer.remove(item)


def _rename_uses(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def _rename_everywhere(graph: onnx.GraphProto, old: str, new: str) -> None:
    _rename_uses(graph, old, new)
    for node in graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
