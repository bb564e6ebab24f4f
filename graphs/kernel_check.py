"""Checks a graph, node by node, against what an execution provider has kernels for.

Shapes are computed on the CPU whatever the provider, and so is what is computed of shapes alone: ONNX Runtime puts
such nodes there (its `GetCpuPreferredNodes`), and here they are told apart in the same way. Every other node must have
a kernel of the provider, for its version, its types, its inputs and its attributes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ..runtime.errors import ExportError
from .kernel_table import ONNX_DOMAIN, Kernel, KernelTable, Limit, kernel_table
from .signatures import Signature, Types, arguments, bound_types, known_types, most, output_types

_SMALL = 100  # elements of a constant that the CPU may as well read: ONNX Runtime's own bound
_SHAPES = ("Shape", "Size")  # they look at no data, and answer in the host's memory
_HALF = ("float16", "bfloat16")  # never moved to the CPU for convenience


@dataclass(frozen=True)
class Placement:
    """Where ONNX Runtime runs the nodes, by name."""

    device: tuple[str, ...]
    host: tuple[str, ...]  # arithmetic on shapes


def require_kernels(model: ir.Model, target: str, *, advice: str) -> None:
    """Check a graph for a target before it is written; for the CPU nothing is asked.

    Raises:
        ExportError: see `place_nodes`.
    """
    table = kernel_table(target)
    if table is not None:
        place_nodes(model, table, advice=advice)


def place_nodes(model: ir.Model, table: KernelTable, *, advice: str) -> Placement:
    """Find a kernel for every node.

    Args:
        model: the graph as it will be written.
        table: the provider's kernels.
        advice: what the user can do instead: the end of the message.

    Raises:
        ExportError: a node has no kernel; it is named, with the reason.
    """
    walk = _Walk(model, table)
    device: list[str] = []
    host: list[str] = []
    for node in model.graph:
        name = node.name or str(node.outputs[0].name)
        problem = walk.place(node)
        if problem is not None:
            raise ExportError(
                f"node {name} ({_operator(node)}) has no kernel in {table.provider} of ONNX Runtime "
                f"{table.version}: {problem}; {advice}"
            )
        (host if node in walk.host_nodes else device).append(name)
    return Placement(tuple(device), tuple(host))


class _Walk:
    """A graph in order, with the type of every value so far, and which of them lie in the host's memory."""

    def __init__(self, model: ir.Model, table: KernelTable) -> None:
        self.table = table
        self.opset = model.opset_imports[""]
        self.types: Types = known_types(model.graph)
        self.graph_inputs = set(model.graph.inputs)
        self.host_values: set[ir.Value] = set()
        self.host_nodes: set[ir.Node] = set()

    def place(self, node: ir.Node) -> str | None:
        """Note where the node runs and the types that it gives out; or why it can't run."""
        operator = _operator(node)
        signature = self.table.signature(operator, self.opset)
        if signature is None:
            return "it has no such operator"
        bound = bound_types(node, signature, self.types)
        made = list(output_types(node, signature, bound))
        problem = self._problem(node, operator, signature, bound)
        moves = self._moves_to_host(node, operator, has_kernel=problem is None)
        if problem is not None and not moves:
            return problem
        for argument, kind in made:
            if kind is None:
                return f"the type of its output {argument.formal.name} can't be told"
            self.types[argument.value] = kind
        if moves:
            self.host_nodes.add(node)
        if moves or node.op_type in _SHAPES:
            self.host_values.update(node.outputs)
        return None

    def _problem(self, node: ir.Node, operator: str, signature: Signature, bound: Mapping[str, set[str]]) -> str | None:
        """Why no kernel takes the node, if none does."""
        kernels = self.table.kernels.get(operator, ())
        if not kernels:
            return "it has no such operator"
        fitting = [kernel for kernel in kernels if kernel.serves(signature.since_version)]
        if not fitting:
            return f"it has none for version {signature.since_version} of the operator (opset {self.opset})"
        for side, values, formals in (
            ("input", node.inputs, signature.inputs),
            ("output", node.outputs, signature.outputs),
        ):
            limit = most(formals)
            if limit is not None and len(values) > limit:
                return f"it has {len(values)} {side}s, the kernel knows {limit}"
        problems = [_type_problem(kernel, self._given_types(node, signature, bound)) for kernel in fitting]
        if all(problems):
            return problems[0]
        limits = self.table.limits.get(operator, ())
        return next((found for limit in limits if (found := self._outside(node, signature, limit))), None)

    def _given_types(
        self, node: ir.Node, signature: Signature, bound: Mapping[str, set[str]]
    ) -> list[tuple[str, str, str]]:
        """Name, constraint and type of all inputs and outputs whose type is known."""
        taken = [
            (each.formal.name, each.formal.type, self.types[each.value])
            for each in arguments(node.inputs, signature.inputs)
            if each.value in self.types
        ]
        made = output_types(node, signature, bound)
        return taken + [(each.formal.name, each.formal.type, kind) for each, kind in made if kind is not None]

    def _outside(self, node: ir.Node, signature: Signature, limit: Limit) -> str | None:
        """How a node is outside of a limit, if it is."""
        given = {each.formal.name: each.value for each in arguments(node.inputs, signature.inputs)}
        made = {each.formal.name for each in arguments(node.outputs, signature.outputs)}
        found = None
        if limit.never:
            found = "it is there by name only"
        elif left_out := [name for name in limit.needs if name not in given]:
            found = f"its input {left_out[0]} is left out"
        elif extra := [name for name in limit.absent if name in given]:
            found = f"its input {extra[0]} is given"
        elif extra := [name for name in limit.outputs_absent if name in made]:
            found = f"its output {extra[0]} is wanted"
        elif limit.attribute:
            found = _attribute_problem(node, limit)
        elif limit.divides:
            part, whole = (node.attributes.get_int(name, 0) for name in limit.divides)
            if part and whole and whole % part:
                found = f"its {limit.divides[0]} {part} does not divide {limit.divides[1]} {whole}"
        else:
            kinds = {name: self.types.get(given[name]) for name in limit.types if name in given}
            wrong = [(name, kind) for name, kind in kinds.items() if kind and kind not in limit.types[name].split()]
            if wrong:
                found = f"its input {wrong[0][0]} is {wrong[0][1]}, not {_choices(limit.types[wrong[0][0]].split())}"
        return None if found is None else f"{found} ({limit.why})"

    def _moves_to_host(self, node: ir.Node, operator: str, *, has_kernel: bool) -> bool:
        """Whether it computes on shapes alone: one of its inputs at least comes of them, the others are as small."""
        values = [(index, value) for index, value in enumerate(node.inputs) if value is not None]
        if node.op_type in _SHAPES or not any(value in self.host_values for _, value in values):
            return False
        read_on_host = self.table.host_inputs.get(operator, frozenset()) if has_kernel else frozenset()
        for index, value in values:
            if self.types.get(value) in _HALF:
                return False
            if _is_small_constant(value) or value in self.graph_inputs:
                continue
            if value not in self.host_values or index in read_on_host:
                return False
        return True


def _operator(node: ir.Node) -> str:
    return f"{node.domain or ONNX_DOMAIN}::{node.op_type}"


def _type_problem(kernel: Kernel, given: list[tuple[str, str, str]]) -> str | None:
    """What of the types is not among the kernel's; a constraint that it does not name is free."""
    for name, constraint, kind in given:
        allowed = kernel.types.get(constraint)
        if allowed is not None and kind not in allowed:
            return f"{name} is {kind}, and it takes {_choices(sorted(allowed))}"
    return None


def _attribute_problem(node: ir.Node, limit: Limit) -> str | None:
    attribute = node.attributes.get(limit.attribute)
    if attribute is None or any(_same(attribute.value, allowed) for allowed in limit.values):
        return None
    return f"its attribute {limit.attribute} is {attribute.value}, not {_choices(limit.values)}"


def _same(value: Any, allowed: Any) -> bool:
    if isinstance(value, float) and isinstance(allowed, int | float):
        return math.isclose(value, allowed, rel_tol=1e-6)
    return bool(value == allowed)


def _is_small_constant(value: ir.Value) -> bool:
    tensor = value.const_value if value.is_initializer() else None
    return tensor is not None and tensor.size <= _SMALL


def _choices(names: Any) -> str:
    texts = [str(name) for name in names]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"
