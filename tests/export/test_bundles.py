"""Bundles of every architectural choice against the eager GPT, which tests/models judges by formulas."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from onnxgpt.export.parity import TOLERANCE
from onnxgpt.export.pipeline import export_checkpoint
from onnxgpt.models.gpt import GPT
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.model import Model

Exported = Callable[..., tuple[GPT, Bundle]]

# How attention and rotary position enter the graph: operators that are there, operators that are not.
ATTENTION = {
    "gpt2": ({"GroupQueryAttention"}, {"RotaryEmbedding", "Softmax"}),
    "llama": ({"GroupQueryAttention"}, {"RotaryEmbedding", "Softmax"}),
    "rotary inside, partial and interleaved": ({"GroupQueryAttention"}, {"RotaryEmbedding", "Softmax"}),
    "rotary outside": ({"GroupQueryAttention", "RotaryEmbedding"}, {"Softmax"}),
    "rotary outside, interleaved": ({"GroupQueryAttention", "RotaryEmbedding"}, {"Softmax"}),
    "no fused attention": ({"Softmax", "ScatterElements"}, {"GroupQueryAttention", "RotaryEmbedding"}),
    "sinusoidal, relu, norms after": ({"GroupQueryAttention"}, {"RotaryEmbedding", "Softmax"}),
    "rms norms after, one key head": ({"GroupQueryAttention"}, {"RotaryEmbedding", "Softmax"}),
    "windows, scale by layer": ({"GroupQueryAttention"}, {"RotaryEmbedding", "Softmax"}),
    "windows, soft caps, norms on both sides, local rotary": (
        {"GroupQueryAttention", "SimplifiedLayerNormalization"},
        {"RotaryEmbedding", "Softmax", "ReduceMean"},
    ),
    "alibi, norm on the embedding": ({"GroupQueryAttention"}, {"RotaryEmbedding", "Softmax"}),
    "alibi without fused attention": ({"Softmax"}, {"GroupQueryAttention"}),
    "parallel": ({"GroupQueryAttention", "RotaryEmbedding"}, {"Softmax"}),
    "parallel, one norm, norms of each head": ({"GroupQueryAttention"}, {"RotaryEmbedding", "Softmax"}),
    "projections around the blocks": ({"GroupQueryAttention"}, {"RotaryEmbedding", "Softmax"}),
    "yarn": ({"GroupQueryAttention"}, {"RotaryEmbedding", "Softmax"}),
    "windows without fused attention": ({"Softmax"}, {"GroupQueryAttention"}),
}
STANDARD = (
    "gpt2",
    "llama",
    "no fused attention",
    "rms norms after, one key head",
    "windows, soft caps, norms on both sides, local rotary",
    "alibi, norm on the embedding",
)


def graph_of(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load(bundle.graph_path, load_external_data=False)


def operators_of(bundle: Bundle) -> Counter[str]:
    return Counter(node.op_type for node in graph_of(bundle).graph.node)


@pytest.mark.parametrize("name", ATTENTION)
def test_a_fused_bundle_is_the_model(exported: Exported, name: str) -> None:
    gpt, bundle = exported(name)
    there, absent = ATTENTION[name]
    assert there <= set(operators_of(bundle))
    assert not absent & set(operators_of(bundle))
    assert "num_logits_to_keep" in bundle.manifest.graph.inputs
    assert bundle.manifest.graph.shares_cache_buffer == ("GroupQueryAttention" in there)
    assert_same_logits(gpt, bundle)


@pytest.mark.parametrize("name", STANDARD)
def test_a_standard_bundle_is_the_model_with_nodes_of_onnx_alone(exported: Exported, name: str) -> None:
    gpt, bundle = exported(name, "standard")
    model = graph_of(bundle)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    for node in model.graph.node:
        assert node.domain == ""
        assert onnx.defs.has(node.op_type, 18), node.op_type
    onnx.checker.check_model(str(bundle.graph_path), full_check=True)
    assert not bundle.manifest.graph.shares_cache_buffer
    assert_same_logits(gpt, bundle)


def assert_same_logits(gpt: GPT, bundle: Bundle) -> None:
    """The report in the manifest, and once more through the public face, as long as the context allows."""
    parity = bundle.manifest.parity
    assert parity is not None
    assert [case["name"] for case in parity["cases"]] == ["prefill", "single steps", "chunked prefill", "ragged batch"]
    assert all(case["max_log_probability_difference"] <= TOLERANCE for case in parity["cases"])
    assert all(case["top1_agreement"] == 1 for case in parity["cases"])
    assert parity["greedy_identical"] == parity["greedy_tokens"] == 48
    ids = np.random.default_rng(5).integers(gpt.config.vocab_size, size=gpt.config.context_length)
    with torch.no_grad():
        expected = gpt(torch.tensor(ids[None]), torch.ones((1, len(ids)), dtype=torch.int64))[0][0].numpy()
    found = Model.load(bundle.directory).logits(ids)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_llama_graph_has_the_fewest_nodes_that_the_operators_allow(exported: Exported) -> None:
    _, bundle = exported("llama")
    layers = bundle.manifest.architecture["num_layers"]
    per_layer = {
        "MatMul": 4,  # packed QKV, attention output, gate and up, down
        "GroupQueryAttention": 1,
        "SkipSimplifiedLayerNormalization": 2,  # of the next layer, or the final norm, at the end
        "Split": 1,
        "QuickGelu": 1,
        "Mul": 1,
    }
    once = {
        "Gather": 1,
        "SimplifiedLayerNormalization": 1,
        "Shape": 1,
        "Squeeze": 1,
        "ReduceSum": 1,
        "Sub": 1,
        "Cast": 2,
        "Neg": 1,
        "Slice": 1,
        "FusedMatMul": 1,
    }
    assert operators_of(bundle) == {name: count * layers for name, count in per_layer.items()} | once


def test_the_gpt2_graph_has_the_fewest_nodes_that_the_operators_allow(exported: Exported) -> None:
    _, bundle = exported("gpt2")
    found = operators_of(bundle)
    layers = bundle.manifest.architecture["num_layers"]
    assert found["MatMul"] == 4 * layers
    assert found["FastGelu"] == found["GroupQueryAttention"] == layers
    assert found["SkipLayerNormalization"] == 2 * layers + 1
    assert found["Add"] == layers + 1  # the bias of QKV, and the new positions
    assert "LayerNormalization" not in found


def test_inputs_and_outputs_keep_the_contract(exported: Exported) -> None:
    _, bundle = exported("llama")
    graph = graph_of(bundle).graph
    shapes = {
        value.name: [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes["input_ids"] == ["batch", "sequence"]
    assert shapes["attention_mask"] == ["batch", "total_sequence"]
    assert shapes["past_key_values.1.value"] == ["batch", 2, "past_sequence", 16]
    assert shapes["num_logits_to_keep"] == [1]
    assert shapes["logits"] == ["batch", "kept", 300]
    assert shapes["present.0.key"] == ["batch", 2, "present_sequence", 16]
    assert list(bundle.manifest.graph.inputs) == [value.name for value in graph.input]
    assert list(bundle.manifest.graph.outputs) == [value.name for value in graph.output]
    assert "num_logits_to_keep" in {initializer.name for initializer in graph.initializer}  # thus optional


def test_the_graph_tells_nothing_of_the_machine_it_was_made_on(exported: Exported) -> None:
    _, bundle = exported("gpt2")
    model = graph_of(bundle)
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    text = bundle.graph_path.read_bytes()
    assert b".py" not in text
    assert b"site-packages" not in text


def test_parameters_that_are_equal_stay_apart(
    configs: dict[str, Any], make_gpt: Callable[..., GPT], make_checkpoint: Callable[..., Any], tmp_path: Path
) -> None:
    """A model just made has biases of 0 and norms of 1, and training goes on in another one."""
    gpt = make_gpt(**configs["gpt2"])
    for name, parameter in gpt.named_parameters():
        if parameter.dim() == 1:
            parameter.data.fill_(float("norm.weight" in name))
    bundle = export_checkpoint(make_checkpoint(gpt), tmp_path / "bundle")
    names = [initializer.name for initializer in graph_of(bundle).graph.initializer]
    assert sum(name.endswith("output.bias") for name in names) == gpt.config.num_layers
    assert_same_logits(gpt, bundle)


@pytest.mark.parametrize("operators", ["fused", "standard"])
def test_a_tied_matrix_is_stored_once(exported: Exported, operators: str) -> None:
    gpt, bundle = exported("gpt2", operators)
    weights = (bundle.directory / "model.onnx.data").stat().st_size
    parameters = sum(parameter.numel() * 4 for parameter in gpt.parameters())
    assert parameters <= weights < parameters + 64 * len(gpt.state_dict())  # and padding


def test_weights_are_outside_of_the_graph_and_aligned(exported: Exported) -> None:
    _, bundle = exported("llama")
    inside = []
    for initializer in graph_of(bundle).graph.initializer:
        if initializer.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in initializer.external_data}
            assert entries["location"] == "model.onnx.data"
            assert int(entries["offset"]) % 64 == 0
        else:
            inside.append(initializer)
    assert all(initializer.data_type == onnx.TensorProto.INT64 for initializer in inside)
    assert bundle.graph_path.stat().st_size < 20_000


def test_matrices_are_recorded_with_their_roles_and_parts(exported: Exported) -> None:
    gpt, bundle = exported("llama")
    weights = {name: value.numpy() for name, value in gpt.state_dict().items()}
    stored = {
        initializer.name: onnx.numpy_helper.to_array(initializer, str(bundle.directory))
        for initializer in graph_of(bundle).graph.initializer
    }
    nodes = {node.name: list(node.input) for node in graph_of(bundle).graph.node}
    roles = [(matrix["role"], matrix["layer"]) for matrix in bundle.manifest.matrices]
    block = ("qkv", "attention_output", "gate_up", "down")
    assert roles == [("token_embedding", None), *((r, n) for n in (0, 1) for r in block), ("head", None)]
    for matrix in bundle.manifest.matrices:
        array = stored[matrix["initializer"]]
        assert list(array.T.shape if matrix["transposed"] else array.shape) == matrix["shape"]
        assert matrix["initializer"] in nodes[matrix["node"]]
        assert matrix["norm"] is None or matrix["norm"] in stored
        prefix = f"blocks.{matrix['layer']}." + ("attention" if matrix["role"] == "qkv" else "mlp")
        for part in matrix["parts"]:
            columns = array[:, part["start"] : part["stop"]]
            np.testing.assert_array_equal(columns, weights[f"{prefix}.{part['role']}.weight"])
    head = bundle.manifest.matrices[-1]
    assert head["initializer"] == "token_embedding.weight"
    assert head["norm"] == "final_norm.weight"
    assert bundle.manifest.matrices[2]["fed_by"] == {
        "initializer": "blocks.0.attention.qkv.weight",
        "part": "value",
    }


def test_norms_after_feed_the_residual_too_and_are_not_recorded(exported: Exported) -> None:
    _, bundle = exported("rms norms after, one key head")
    assert [matrix["norm"] for matrix in bundle.manifest.matrices[:-1]] == [None] * (len(bundle.manifest.matrices) - 1)


def test_genai_config_names_what_the_graph_has(exported: Exported) -> None:
    _, bundle = exported("llama")
    data = json.loads((bundle.directory / "genai_config.json").read_text())
    decoder: dict[str, Any] = data["model"]["decoder"]
    names = {value.name for value in (*graph_of(bundle).graph.input, *graph_of(bundle).graph.output)}
    assert decoder["inputs"]["past_key_names"] % 1 in names
    assert decoder["outputs"]["present_value_names"] % 0 in names
    assert (decoder["head_size"], decoder["num_key_value_heads"], decoder["num_hidden_layers"]) == (16, 2, 2)
    assert data["model"]["eos_token_id"] == 0
    assert data["search"]["past_present_share_buffer"] is True
