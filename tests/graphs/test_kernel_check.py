"""Single nodes against the tables of kernels: one that a provider takes, and the same with one thing wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxgpt.graphs.kernel_check import place_nodes, require_kernels
from onnxgpt.graphs.kernel_table import kernel_table
from onnxgpt.runtime.errors import ExportError

CONTRIB = "com.microsoft"
HALF, FLOAT, BFLOAT = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.BFLOAT16
INT64, INT32, BYTE = TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8


def model_of(
    op_type: str,
    inputs: Sequence[int | None],
    *,
    domain: str = "",
    opset: int = 20,
    outputs: int = 1,
    **attributes: Any,
) -> ir.Model:
    """A graph of one node, "the_node", whose inputs (by element type; None: left out) are the graph's."""
    names = [f"input_{index}" if kind is not None else "" for index, kind in enumerate(inputs)]
    node = helper.make_node(
        op_type, names, [f"output_{index}" for index in range(outputs)], "the_node", domain=domain, **attributes
    )
    values = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(names, inputs, strict=True) if kind]
    results = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "one", values, results)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def attention(
    kind: int = HALF, *more: int | None, packed: bool = False, outputs: int = 3, **attributes: Any
) -> ir.Model:
    """GroupQueryAttention as an export makes it, with further inputs."""
    key = None if packed else kind
    inputs = [kind, key, key, kind, kind, INT32, INT32, *more]
    attributes = {"num_heads": 4, "kv_num_heads": 2} | attributes
    return model_of("GroupQueryAttention", inputs, domain=CONTRIB, outputs=outputs, **attributes)


def product(*more: int | None, kind: int = HALF, bits: int = 4, block_size: int = 32, width: int = 64) -> ir.Model:
    """MatMulNBits with inputs behind the scales."""
    return model_of(
        "MatMulNBits", [kind, BYTE, kind, *more], domain=CONTRIB, K=width, N=8, bits=bits, block_size=block_size
    )


TAKEN = {
    "dml": [
        attention(),
        attention(FLOAT, softcap=0.0, local_window_size=-1, do_rotary=0),
        product(BYTE),
        product(BYTE, bits=8, block_size=64),
        model_of("RotaryEmbedding", [HALF, INT64, HALF, HALF], domain=CONTRIB, num_heads=4, rotary_embedding_dim=8),
        model_of("QuantizeLinear", [HALF, HALF, BYTE], opset=19),
        model_of("BiasGelu", [HALF, HALF], domain=CONTRIB),
        model_of("ScatterElements", [HALF, INT64, HALF], opset=17, axis=2),
        model_of("SimplifiedLayerNormalization", [HALF, HALF]),
        model_of("Cast", [INT64], to=HALF),
    ],
    "cuda": [
        attention(),
        attention(BFLOAT, BFLOAT, BFLOAT, packed=True, do_rotary=1, softcap=30.0, local_window_size=64),
        attention(HALF, None, None, None, HALF),  # attention_bias
        product(kind=FLOAT),
        product(BYTE, None, HALF, bits=2),
        model_of("GatherBlockQuantized", [BYTE, INT64, HALF], domain=CONTRIB, block_size=32, bits=8, quantize_axis=1),
        model_of("Gelu", [BFLOAT]),
        model_of("ScatterElements", [HALF, INT64, HALF], opset=18, axis=2),
        model_of("FastGelu", [HALF, HALF], domain=CONTRIB),
    ],
}
REFUSED = {
    "dml": [
        (attention(packed=True), "its input key is left out"),
        (attention(HALF, HALF, HALF, do_rotary=1), "its input cos_cache is given"),
        (attention(do_rotary=1), "its attribute do_rotary is 1, not 0"),
        (attention(local_window_size=64), "its attribute local_window_size is 64"),
        (attention(softcap=30.0), "its attribute softcap is 30"),
        (attention(HALF, None, None, None, HALF), "its input attention_bias is given"),
        (attention(HALF, None, None, None, None, HALF), "its input head_sink is given"),
        (attention(HALF, *[None] * 7, HALF, HALF), "it has 16 inputs, the kernel knows 12"),
        (attention(outputs=4, qk_output=1), "its attribute qk_output is 1"),
        (attention(BFLOAT), "query is bfloat16, and it takes float or float16"),
        (product(), "its input zero_points is left out"),
        (product(HALF), "its input zero_points is float16, not uint8"),
        (product(BYTE, None, HALF), "its input bias is given"),
        (product(BYTE, bits=2), "its attribute bits is 2, not 4 or 8"),
        (product(BYTE, width=80), "its block_size 32 does not divide K 80"),
        (
            model_of("GatherBlockQuantized", [BYTE, INT64, HALF], domain=CONTRIB, block_size=32, bits=8),
            "it has no such operator",
        ),
        (model_of("FastGelu", [HALF, HALF], domain=CONTRIB), "computes GELU by erf"),
        (model_of("Gelu", [HALF]), "it has no such operator"),
        (model_of("ScatterElements", [HALF, INT64, HALF], opset=18, axis=2), "version 18 of the operator"),
        (model_of("ScatterElements", [HALF, INT64, HALF], opset=17, reduction="add"), "reduction is add, not none"),
        (model_of("Reshape", [HALF, INT64], opset=23), "version 23 of the operator"),
        (model_of("QuantizeLinear", [HALF, FLOAT, BYTE], opset=18), "x is float16, and it takes float or int32"),
        (model_of("Softmax", [BFLOAT]), "it takes float or float16"),
        (
            model_of("SkipLayerNormalization", [HALF, HALF, HALF, HALF], domain=CONTRIB, outputs=2),
            "its output mean is wanted",
        ),
    ],
    "cuda": [
        (attention(FLOAT), "query is float, and it takes bfloat16 or float16"),
        (attention(outputs=4, qk_output=1), "its output output_qk is wanted"),
        (product(bits=3), "its attribute bits is 3, not 2, 4 or 8"),
        (
            model_of("GatherBlockQuantized", [BYTE, INT64, HALF], domain=CONTRIB, block_size=48, bits=8),
            "block_size is 48",
        ),
        (model_of("Clip", [BFLOAT, BFLOAT]), "input is bfloat16"),
        (model_of("DynamicQuantizeLinear", [FLOAT], outputs=3), "it has no such operator"),
        (model_of("QuantizeLinear", [HALF, FLOAT, BYTE], opset=18), "x is float16, and it takes float"),
    ],
}


@pytest.mark.parametrize(
    ("target", "model"), [(target, model) for target, models in TAKEN.items() for model in models], ids=str
)
def test_a_node_within_the_table_is_placed_on_the_device(target: str, model: ir.Model) -> None:
    placement = place_nodes(model, kernel_table(target), advice="…")

    assert (placement.device, placement.host) == (("the_node",), ())


@pytest.mark.parametrize(
    ("target", "model", "reason"),
    [(target, *case) for target, cases in REFUSED.items() for case in cases],
    ids=[f"{target}: {reason}" for target, cases in REFUSED.items() for _, reason in cases],
)
def test_a_node_outside_is_refused_by_name_with_the_reason(target: str, model: ir.Model, reason: str) -> None:
    with pytest.raises(ExportError) as caught:
        require_kernels(model, target, advice="export it for the CPU")

    message = str(caught.value)
    operator = f"{model.graph[0].domain or 'ai.onnx'}::{model.graph[0].op_type}"
    assert message.startswith(f"node the_node ({operator}) has no kernel in ")
    assert reason in message
    assert message.endswith("; export it for the CPU")
    assert "\n" not in message


def test_the_cpu_is_asked_nothing() -> None:
    require_kernels(attention(packed=True, do_rotary=1), "cpu", advice="…")


def test_arithmetic_on_shapes_stays_on_the_cpu_and_needs_no_kernel_of_the_device() -> None:
    """What ONNX Runtime's GetCpuPreferredNodes does: a node moves with the shapes that it reads, data does not."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Gather", ["shape", "last"], ["width"], "width"),
        helper.make_node("Mul", ["width", "two"], ["double"], "double"),
        helper.make_node("Range", ["zero", "double", "one"], ["places"], "places"),
        helper.make_node("Mul", ["places", "ids"], ["result"], "of_data"),
    ]
    numbers = {"last": 1, "two": 2, "zero": 0, "one": 1}
    graph = helper.make_graph(
        nodes,
        "shapes",
        [helper.make_tensor_value_info("x", HALF, ["a", "b"]), helper.make_tensor_value_info("ids", INT64, ["c"])],
        [helper.make_tensor_value_info("result", INT64, ["c"])],
        [helper.make_tensor(name, INT64, [], [number]) for name, number in numbers.items()],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    placement = place_nodes(model, kernel_table("dml"), advice="…")

    assert placement.host == ("width", "double")
    assert placement.device == ("shape", "places", "of_data")  # the kernel of Range reads its inputs on the host


@pytest.mark.parametrize("target", ["dml", "cuda"])
def test_a_table_says_where_it_comes_from(target: str) -> None:
    table = kernel_table(target)

    assert table is not None
    assert {"dml": "1.24.0", "cuda": "1.31.1"}[target] == table.version
    assert len(table.source["commit"]) == 40
    assert table.source["path"] == "docs/OperatorKernels.md"
    assert all(operator in table.kernels for operator in table.limits)
    assert all(operator in table.kernels for operator in table.host_inputs)
