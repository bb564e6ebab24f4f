"""Products by blocks as DirectML's MatMulNBits takes them: zeros that are said, biases that are added outside.

Elsewhere the zeros of symmetric blocks, half the codes' range, go without saying. DirectML's kernel multiplies by the
codes as they are unless it is given zeros, and refuses a bias.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .editing import add_initializer, replace

_ZEROS, _BIAS = 3, 5  # indices of MatMulNBits' inputs


def spell_out_blocks(model: ir.Model) -> bool:
    """Give every MatMulNBits its zeros, and take its bias out into a sum."""
    nodes = [node for node in model.graph if node.op_type == "MatMulNBits"]
    for node in nodes:
        _rewrite(model, node)
    return bool(nodes)


def _rewrite(model: ir.Model, node: ir.Node) -> None:
    inputs = [*node.inputs, *[None] * (_BIAS + 1 - len(node.inputs))]
    zeros = inputs[_ZEROS] or _middle_zeros(model, node)
    product = ir.node(
        "MatMulNBits", [*inputs[:_ZEROS], zeros], dict(node.attributes), domain=node.domain, name=node.name
    )
    new = [product]
    if inputs[_BIAS] is not None:
        new.append(ir.node("Add", [product.outputs[0], inputs[_BIAS]]))
    replace(model, [node], new, {node.outputs[0]: new[-1].outputs[0]}, after=node)


def _middle_zeros(model: ir.Model, node: ir.Node) -> ir.Value:
    """uint8 [columns, bytes]: half of the codes' range in every place, two places to a byte where codes have 4 bits."""
    codes = node.inputs[1]
    assert codes is not None
    bits, columns = node.attributes.get_int("bits", 4), node.attributes.get_int("N", 0)
    blocks = -(-node.attributes.get_int("K", 0) // node.attributes.get_int("block_size", 1))
    half = {4: 0x88, 8: 0x80}[bits]
    name = f"{str(codes.name).removesuffix('.codes')}.zeros"
    return add_initializer(
        model, name, ir.tensor(np.full((columns, -(-blocks * bits // 8)), half, np.uint8), name=name)
    )
