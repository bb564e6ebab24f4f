"""Several products of one input become one product by the matrices side by side: what packed QKV and gate-up share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graphs.editing import add_initializer, integers, is_weight, only_used_once, output_width, replace


@dataclass(frozen=True)
class Product:
    """One matrix product, with its bias when it has one."""

    multiply: ir.Node
    add: ir.Node | None
    weight: ir.Value
    bias: ir.Value | None

    @property
    def result(self) -> ir.Value:
        """What the rest of the graph reads."""
        return (self.add or self.multiply).outputs[0]

    @property
    def nodes(self) -> list[ir.Node]:
        """The last node first, as they can be removed."""
        return [self.multiply] if self.add is None else [self.add, self.multiply]


def sibling_products(model: ir.Model, parts: tuple[str, ...]) -> Iterator[tuple[str, list[Product]]]:
    """Find products of one input whose weights are named `{prefix}.{part}.weight`: the prefix, and one per part."""
    first = f".{parts[0]}.weight"
    for name in [name for name in model.graph.initializers if name.endswith(first)]:
        prefix = name.removesuffix(first)
        products = [_product(model, f"{prefix}.{part}.weight") for part in parts]
        found = [product for product in products if product is not None]
        shared = {id(product.multiply.inputs[0]) for product in found}
        if len(found) == len(parts) and len(shared) == 1 and len({each.bias is None for each in found}) == 1:
            yield prefix, found


def pack(model: ir.Model, products: list[Product], name: str) -> list[ir.Value]:
    """Replace the products by one, by the matrix `{name}.weight` and bias `{name}.bias`, and a `Split` behind it.

    Returns:
        The outputs of the split, in the order of `products`.
    """
    hidden = products[0].multiply.inputs[0]
    weight = _concatenate(model, f"{name}.weight", [each.weight for each in products])
    nodes = [ir.node("MatMul", [hidden, weight], name=name)]
    biases = [each.bias for each in products if each.bias is not None]
    if biases:
        nodes.append(ir.node("Add", [nodes[0].outputs[0], _concatenate(model, f"{name}.bias", biases)]))
    sizes = [output_width(each.weight) for each in products]
    split = ir.node(
        "Split",
        [nodes[-1].outputs[0], integers(model, "split." + "_".join(map(str, sizes)), sizes)],
        {"axis": -1},
        num_outputs=len(sizes),
    )
    first = min((each.multiply for each in products), key=list(model.graph).index)
    replaced = {each.result: result for each, result in zip(products, split.outputs, strict=True)}
    old = [node for each in products for node in each.nodes]
    replace(model, old, [*nodes, split], replaced, after=first)
    for each in products:
        for value in (each.weight, each.bias):
            if value is not None and not value.uses():
                model.graph.initializers.pop(str(value.name))
    return list(split.outputs)


def _product(model: ir.Model, weight_name: str) -> Product | None:
    weight = model.graph.initializers.get(weight_name)
    if weight is None or not is_weight(weight, 2) or not only_used_once(weight):
        return None
    ((multiply, index),) = weight.uses()
    if multiply.op_type != "MatMul" or index != 1:
        return None
    result = multiply.outputs[0]
    if only_used_once(result):
        ((add, index),) = result.uses()
        bias = add.inputs[1 - index] if add.op_type == "Add" else None
        if bias is not None and is_weight(bias):
            return Product(multiply, add, weight, bias)
    return Product(multiply, None, weight, None)


def _concatenate(model: ir.Model, name: str, values: list[ir.Value]) -> ir.Value:
    """An initializer of the columns of all; its data is put together only when it is written."""
    tensors = [value.const_value for value in values]
    assert all(tensor is not None for tensor in tensors)
    shape = [int(size) for size in values[0].shape.numpy()[:-1]]  # type: ignore[union-attr]
    shape.append(sum(output_width(value) for value in values))

    def join() -> ir.TensorProtocol:
        return ir.tensor(np.concatenate([tensor.numpy() for tensor in tensors if tensor is not None], axis=-1))

    lazy = ir.LazyTensor(join, dtype=tensors[0].dtype, shape=ir.Shape(shape), name=name)  # type: ignore[union-attr]
    return add_initializer(model, name, lazy)
