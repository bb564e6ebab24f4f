"""The GPT through `torch.onnx.export`, as a graph whose inputs and outputs keep the bundle's contract."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
import onnx_ir as ir
import torch

from ..graphs.choices import add_choices
from ..graphs.precision import to_half
from ..graphs.targets import CPU_FLOAT32, GraphForm, Operators, Target
from ..models.config import GPTConfig
from ..models.gpt import GPT
from ..runtime.errors import ExportError
from .operators import attention_for
from .passes import FUSED_PASSES, PLAIN_FUSED_PASSES, PLAIN_STANDARD_PASSES, STANDARD_PASSES, GraphPass, run_passes

# The exporter writes no lower opset than 18, and the widest choice of backends is wanted there. ONNX Runtime, which
# alone runs the fused set, has had Gelu as one operator since opset 20.
OPSETS: dict[Operators, int] = {"standard": 18, "fused": 20}
_DIRECTML_OPSET = 20  # both sets: the newest whose operators it has; quantized float16 came with 19

_BATCH, _SEQUENCE, _PAST = 2, 3, 5  # sizes to trace with: 0 and 1 would be taken for constants


@dataclass(frozen=True)
class ExportedGraph:
    """A graph in memory, its weights still those of the PyTorch module."""

    model: ir.Model
    shares_cache_buffer: bool  # past and present may be one buffer
    passes: list[str]  # the rewrites that changed it


def export_graph(gpt: GPT, form: GraphForm) -> ExportedGraph:
    """Export `gpt` with past key values and rewrite the graph for its operator set, target and type.

    Raises:
        ExportError: PyTorch's exporter failed, or the standard set was asked for and a node is of another.
    """
    model, shares_cache_buffer = trace_gpt(gpt, form.operators, form.target)
    passes = run_passes(model, passes_for(form.target, form.operators))
    _name_dimensions(model.graph, gpt.config)
    to_half(model, form.dtype, wide_residual=form.wide_residual)
    if form.target.chooses_tokens:  # last, since the outputs that this adds read the finished logits
        passes += run_passes(model, (add_choices,))
    if form.operators == "standard":
        assert_standard_nodes(model)
    return ExportedGraph(model, shares_cache_buffer, passes)


def passes_for(target: Target, operators: Operators) -> tuple[GraphPass, ...]:
    """The rewrites of a graph, in order: those that make operators which the target has kernels for."""
    if target.plain_attention:
        return PLAIN_FUSED_PASSES if operators == "fused" else PLAIN_STANDARD_PASSES
    return FUSED_PASSES if operators == "fused" else STANDARD_PASSES


def trace_gpt(gpt: GPT, operators: Operators, target: Target = CPU_FLOAT32.target) -> tuple[ir.Model, bool]:
    """Export `gpt` with past key values, not yet rewritten; its weights are the module's own, not copied.

    Returns:
        The model, and whether its past and present may share one buffer.

    Raises:
        ExportError: PyTorch's exporter failed.
    """
    config = gpt.config
    attention = attention_for(config, operators, target)
    eager, gpt.operator = gpt.operator, attention  # type: ignore[assignment]
    try:
        with torch.no_grad(), _quiet_exporter():
            program = torch.onnx.export(
                gpt,
                _example(config),
                dynamo=True,
                optimize=False,  # our own passes come first: they know what the matrices are
                dynamic_shapes=_dynamic_shapes(config),
                input_names=input_names(config),
                output_names=output_names(config),
                opset_version=_DIRECTML_OPSET if target.plain_attention else OPSETS[operators],
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            f"PyTorch's exporter failed on {config.family} ({_first_line(error)}): report it with the config"
        ) from error
    finally:
        gpt.operator = eager
    assert program is not None
    model = program.model
    _clean(model)
    return model, bool(getattr(attention, "shares_cache_buffer", False))


def assert_standard_nodes(model: ir.Model) -> None:
    """Check that ONNX itself defines every node's operator in the model's own version of the operator set.

    Raises:
        ExportError: a node of another domain, or of an operator that this version does not have, named.
    """
    version = model.opset_imports[""]
    for node in model.graph:
        if node.domain or not onnx.defs.has(node.op_type, version):
            raise ExportError(
                f"node {node.name} is {node.domain or 'ONNX'}::{node.op_type}, which opset {version} of ONNX does not "
                "have: this model can't be written with standard operators; export it with --operators fused"
            )


def input_names(config: GPTConfig) -> list[str]:
    """The graph's inputs in order, without the optional ones."""
    return ["input_ids", "attention_mask", *_cache_names(config, "past_key_values")]


def output_names(config: GPTConfig) -> list[str]:
    """The graph's outputs in order."""
    return ["logits", *_cache_names(config, "present")]


def _cache_names(config: GPTConfig, prefix: str) -> list[str]:
    return [f"{prefix}.{layer}.{kind}" for layer in range(config.num_layers) for kind in ("key", "value")]


def _example(config: GPTConfig) -> tuple[torch.Tensor, torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    shape = (_BATCH, config.num_kv_heads, _PAST, config.head_size)
    past = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(config.num_layers)]
    input_ids = torch.zeros((_BATCH, _SEQUENCE), dtype=torch.int64)
    return input_ids, torch.ones((_BATCH, _PAST + _SEQUENCE), dtype=torch.int64), past


def _dynamic_shapes(config: GPTConfig) -> dict[str, object]:
    cache = {0: "batch", 2: "past_sequence"}
    return {
        "input_ids": {0: "batch", 1: "sequence"},
        "attention_mask": {0: "batch", 1: "total_sequence"},
        "past_key_values": [(cache, cache) for _ in range(config.num_layers)],
    }


def _name_dimensions(graph: ir.Graph, config: GPTConfig) -> None:
    """Write the contract's shapes; inner values keep none, since ONNX Runtime infers them again."""
    for node in graph:
        for value in node.outputs:
            value.shape = None
    for value in (*graph.inputs, *graph.outputs):
        value.shape = ir.Shape(_contract_shape(str(value.name), config))


def _contract_shape(name: str, config: GPTConfig) -> list[int | str]:
    if name == "input_ids":
        return ["batch", "sequence"]
    if name == "attention_mask":
        return ["batch", "total_sequence"]
    if name == "num_logits_to_keep":
        return [1]
    if name == "logits":
        return ["batch", "kept", config.vocab_size]
    sequence = "past_sequence" if name.startswith("past_key_values.") else "present_sequence"
    return ["batch", config.num_kv_heads, sequence, config.head_size]


def _clean(model: ir.Model) -> None:
    """Drop what the exporter notes for debugging (stack traces hold paths), and name tables for what they hold."""
    model.producer_name, model.producer_version, model.doc_string = "onnxgpt", None, None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    model.graph.name = "gpt"
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for name in [name for name in model.graph.initializers if name.startswith("operator.")]:
        model.graph.initializers[name].name = name.removeprefix("operator.")
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's remarks about packages it does not find from reaching the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
