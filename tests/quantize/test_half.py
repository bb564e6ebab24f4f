"""Bundles in half precision, quantized: lifted, rounded, and in their own type again, for their own target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxgpt.export import export_bundle
from onnxgpt.quantize import quantize_bundle
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.model import Model
from onnxgpt.runtime.session import Session

from ..conftest import FAIRYTALE_CHECKPOINT

MakeHalf = Callable[..., Bundle]
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> MakeHalf:
    """The embedded model for a target in a type, exported once."""
    made: dict[tuple[str, ...], Bundle] = {}

    def make(target: str, dtype: str, operators: str = "fused") -> Bundle:
        key = (target, dtype, operators)
        if key not in made:
            out = tmp_path_factory.mktemp("half") / "bundle"
            made[key] = export_bundle(FAIRYTALE_CHECKPOINT, out, target=target, dtype=dtype, operators=operators)
        return made[key]

    return make


def types_of(bundle: Bundle, operator: str, index: int) -> set[ir.DataType | None]:
    """The types that nodes of an operator read at an input."""
    nodes = [node for node in ir.load(bundle.graph_path).graph if node.op_type == operator]
    return {node.inputs[index].dtype for node in nodes}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("target", "recipe", "limit"),
    [
        ("cuda", "int8", 0.01),
        pytest.param("cpu", "int8", 0.01, marks=pytest.mark.slow),
        pytest.param("cuda", "int4", 0.10, marks=pytest.mark.slow),
        pytest.param("dml", "int4", 0.10, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_blocks_are_for_the_target_in_its_type_and_lose_as_little(
    half: MakeHalf, tmp_path: Path, target: str, recipe: str, limit: float
) -> None:
    source = half(target, "float16")
    made = quantize_bundle(source.directory, tmp_path / "small", recipe=recipe)
    graph, quality = made.manifest.graph, made.manifest.quality
    assert (graph.target, graph.dtype) == (target, "float16")
    assert quality is not None
    assert quality["mean_kl"] <= limit
    assert made.weight_bytes < 0.75 * source.weight_bytes
    assert sorted(path.name for path in made.directory.iterdir() if path.is_dir()) == []
    assert types_of(made, "MatMulNBits", 0) == types_of(made, "MatMulNBits", 2) == {ir.DataType.FLOAT16}
    if target != "cpu":  # whole blocks alone
        for node in ir.load(made.graph_path).graph:
            if node.op_type == "MatMulNBits":
                assert node.attributes.get_int("K", 0) % node.attributes.get_int("block_size", 0) == 0
    made.verify_hashes()
    text = Model.load(made.directory).generate("Once upon a time", temperature=0, max_new_tokens=12)[0].text
    assert len(text.split()) > 4


@pytest.mark.slow
def test_bfloat16_blocks_have_bfloat16_scales_and_are_judged_where_they_can_be(half: MakeHalf, tmp_path: Path) -> None:
    made = quantize_bundle(half("cuda", "bfloat16").directory, tmp_path / "small", recipe="int8")
    assert made.manifest.graph.dtype == "bfloat16"
    assert types_of(made, "MatMulNBits", 2) == types_of(made, "GatherBlockQuantized", 2) == {ir.DataType.BFLOAT16}
    assert made.manifest.quality is not None
    assert made.manifest.quality["mean_kl"] <= 0.01


@pytest.mark.slow
def test_int8_static_keeps_its_codes_between_float32_scales(half: MakeHalf, tmp_path: Path) -> None:
    """Opset 18 has QuantizeLinear in float32 alone; the rest of the graph is in half precision."""
    made = quantize_bundle(
        half("cpu", "float16", "standard").directory, tmp_path / "small", recipe="int8-static", max_kl=0.2
    )
    graph = ir.load(made.graph_path).graph
    assert types_of(made, "DequantizeLinear", 1) == {ir.DataType.FLOAT}
    assert {value.dtype for value in graph.outputs} == {ir.DataType.FLOAT16}
    assert Session.open_bundle(made).spec.logits_dtype == np.float16


def test_an_eight_bit_cache_beside_float16(half: MakeHalf, tmp_path: Path) -> None:
    made = quantize_bundle(half("cuda", "float16").directory, tmp_path / "small", recipe="cache")
    graph: Any = ir.load(made.graph_path).graph
    types = {str(value.name): value.dtype for value in graph.inputs}
    assert types["past_key_values.0.key"] == ir.DataType.INT8
    assert types_of(made, "GroupQueryAttention", 12) == {ir.DataType.FLOAT}  # the scales, as the kernels want them
    assert types_of(made, "GroupQueryAttention", 0) == {ir.DataType.FLOAT16}
    assert made.manifest.quality is not None
    assert made.manifest.quality["mean_kl"] <= 0.002
