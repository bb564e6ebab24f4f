"""A graph for WebAssembly: blocks are unpacked once, when the graph is loaded, instead of at every token.

ONNX Runtime's build for browsers has no kernels for MatMulNBits that compute on blocks: it unpacks a matrix each time
that it is multiplied with. Here the same stored blocks go through DequantizeLinear, which is folded into the weights at
loading (with the session's option `session.disable_quant_qdq` at 1). No weight is stored anew: the graph reads the
bundle's own file. It takes four bytes of memory for each weight, and activations are not rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

_OPSET = 21  # the first in which DequantizeLinear knows blocks
_BITS = (4, 8)
_X, _BLOCKS, _SCALES, _ZERO_POINTS, _GROUPS, _BIAS = range(6)  # inputs of MatMulNBits


def unpacking_graph(path: Path) -> bytes | None:
    """The graph at `path` with its block matrices unpacked at loading; None where it has none that it knows.

    Its weights stay where they are: the result has to lie beside the same files.
    """
    model = onnx.load(path, load_external_data=False)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, onnx.TensorProto] = {}
    changed = False
    for node in model.graph.node:
        if _is_known(node):
            nodes.extend(_unpacked(node, constants))
            changed = True
        else:
            nodes.append(node)
    if not changed:
        return None
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants.values())
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = max(opset.version, _OPSET)
    return bytes(model.SerializeToString())


def _is_known(node: onnx.NodeProto) -> bool:
    inputs = [*node.input, "", "", ""]
    return (
        node.op_type == "MatMulNBits"
        and _attributes(node)["bits"] in _BITS
        and not (inputs[_ZERO_POINTS] or inputs[_GROUPS])
    )


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {"bits": 4} | {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _unpacked(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Iterator[onnx.NodeProto]:
    """Nodes for x @ matrix.T + bias, of the stored [columns, blocks, packed block] and its scales."""
    about = _attributes(node)
    width, columns, bits, size = (about[key] for key in ("K", "N", "bits", "block_size"))
    blocks = -(-width // size)
    prefix = f"{node.output[0]}/unpacked"

    def constant(values: Any, dtype: Any = np.int64) -> str:
        """An initializer, the same one for the same values."""
        array = np.array(values, dtype)
        name = f"unpacking/{array.dtype}_{'_'.join(map(str, array.ravel().tolist()))}"
        constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def name(part: str) -> str:
        return f"{prefix}/{part}"

    codes = node.input[_BLOCKS]
    if bits == 4:  # the lower half of a byte comes first
        yield helper.make_node("BitwiseAnd", [codes, constant(15, np.uint8)], [name("low")])
        yield helper.make_node("BitShift", [codes, constant(4, np.uint8)], [name("high")], direction="RIGHT")
        for half in ("low", "high"):
            yield helper.make_node("Unsqueeze", [name(half), constant([-1])], [name(half + "_column")])
        yield helper.make_node("Concat", [name("low_column"), name("high_column")], [name("halves")], axis=-1)
        codes = name("halves")
    yield helper.make_node("Reshape", [codes, constant([columns, blocks, size])], [name("codes")])
    yield helper.make_node("Reshape", [node.input[_SCALES], constant([columns, blocks, 1])], [name("scales")])
    middle = constant([[[1 << (bits - 1)]]], np.uint8)
    yield helper.make_node("Expand", [middle, constant([columns, blocks, 1])], [name("middles")])
    yield helper.make_node(
        "DequantizeLinear",
        [name("codes"), name("scales"), name("middles")],
        [name("values")],
        axis=2,
        block_size=size,
    )
    yield helper.make_node("Reshape", [name("values"), constant([columns, blocks * size])], [name("padded")])
    yield helper.make_node("Slice", [name("padded"), constant([0]), constant([width]), constant([1])], [name("rows")])
    yield helper.make_node("Transpose", [name("rows")], [name("matrix")], perm=[1, 0])
    bias = node.input[_BIAS] if len(node.input) > _BIAS else ""
    product = name("product") if bias else node.output[0]
    yield helper.make_node("MatMul", [node.input[_X], name("matrix")], [product])
    if bias:
        yield helper.make_node("Add", [product, bias], [node.output[0]])
