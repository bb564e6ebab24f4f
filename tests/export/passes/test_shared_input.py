"""Packed QKV and packed gate and up."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from onnxgpt.export.passes.gate_up import pack_gate_up
from onnxgpt.export.passes.packed_qkv import pack_qkv

PREFIX = "blocks.0.attention"
WIDTHS = {"query": 16, "key": 8, "value": 8}


def projections(tools, prefix: str, widths: dict[str, int], *, bias: bool, sources: dict[str, str] | None = None):
    nodes, weights = [], {}
    for seed, (part, width) in enumerate(widths.items()):
        source = (sources or {}).get(part, "x")
        weights[f"{prefix}.{part}.weight"] = tools.sample(8, width, seed=seed)
        product = f"{part}_product" if bias else part
        nodes.append(helper.make_node("MatMul", [source, f"{prefix}.{part}.weight"], [product]))
        if bias:
            weights[f"{prefix}.{part}.bias"] = tools.sample(width, seed=seed)
            nodes.append(helper.make_node("Add", [f"{prefix}.{part}.bias", product], [part]))
    return nodes, weights


@pytest.mark.parametrize("bias", [False, True])
def test_gate_and_up_are_one_product_and_a_split(tools, rewritten, bias) -> None:
    nodes, weights = projections(tools, "blocks.3.mlp", {"gate": 6, "up": 6}, bias=bias)
    nodes.append(helper.make_node("Mul", ["gate", "up"], ["y"]))
    model = tools.build(nodes, ["y"], weights)
    expected = {"MatMul": 1, "Split": 1, "Mul": 1} | ({"Add": 1} if bias else {})
    assert rewritten(model, pack_gate_up) == expected
    packed = model.graph.initializers["blocks.3.mlp.gate_up.weight"].const_value.numpy()
    np.testing.assert_array_equal(packed[:, 6:], weights["blocks.3.mlp.up.weight"])
    assert "blocks.3.mlp.gate.weight" not in model.graph.initializers


@pytest.mark.parametrize("bias", [False, True])
def test_the_attention_operator_reads_packed_qkv(tools, rewritten, bias) -> None:
    nodes, weights = projections(tools, PREFIX, WIDTHS, bias=bias)
    nodes.append(
        helper.make_node(
            "GroupQueryAttention",
            ["query", "key", "value", "past_key", "past_value", "last", "total"],
            ["y", "present_key", "present_value"],
            domain="com.microsoft",
            num_heads=2,
            kv_num_heads=1,
        )
    )
    weights |= {
        "past_key": np.zeros((2, 1, 0, 8), np.float32),
        "past_value": np.zeros((2, 1, 0, 8), np.float32),
        "last": np.array([2, 2], np.int32),
        "total": np.array(3, np.int32),
    }
    model = tools.build(nodes, ["y", "present_key"], weights)
    assert rewritten(model, pack_qkv) == {"MatMul": 1, "GroupQueryAttention": 1} | ({"Add": 1} if bias else {})


def test_elsewhere_packed_qkv_is_split(tools, rewritten) -> None:
    nodes, weights = projections(tools, PREFIX, WIDTHS, bias=False)
    nodes.append(helper.make_node("Mul", ["key", "value"], ["y"]))
    assert rewritten(tools.build(nodes, ["y", "query"], weights), pack_qkv) == {"MatMul": 1, "Split": 1, "Mul": 1}


def test_products_of_different_inputs_stay(tools, untouched) -> None:
    nodes, weights = projections(tools, PREFIX, WIDTHS, bias=False, sources={"value": "other"})
    nodes.insert(0, helper.make_node("Relu", ["x"], ["other"]))
    untouched(tools.build(nodes, ["query", "key", "value"], weights), pack_qkv)
