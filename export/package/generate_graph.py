"""`generate.onnx`: prompt ids and settings in, generated ids out; prefill, cache, sampling and stop rules inside.

A Loop around the nodes of the bundle's own step graph: its first turn reads the prompt, each further one the newest
token, so that nodes, and the packed weights that ONNX Runtime makes of them, exist once. The cache is carried from
turn to turn and grows with the text: an operator copies it once a turn, and never more than is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..._version import __version__
from ...runtime.bundle import Bundle
from ...runtime.config import GenerationConfig
from ...runtime.errors import BundleError
from .building import BOOL, DOUBLE, INT64, GraphBuilder, Values
from .random_nodes import add_numbers
from .sampling_nodes import SamplingValues, add_token

GENERATE_FILE = "generate.onnx"
PROMPT, GENERATED, REASON = "prompt_ids", "generated_ids", "finish_reason"
FINISH_REASONS = ("length", "end", "context")  # by their numbers
_PAST, _PRESENT, _LOGITS, _KEEP = "past_key_values.", "present.", "logits", "num_logits_to_keep"
_STEP_INPUTS = {"input_ids", "attention_mask", _KEEP}
# Options of GenerationConfig that need not be at their defaults for the graph to do the same.
_EXPRESSED = {
    "do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "seed", "max_new_tokens", "max_length",
    "eos_token_id", "stop_token_ids",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The settings among the inputs of the graph, each a vector, with what an empty one stands for."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0  # the 64 bits, as a signed integer: every language can pass it
    end_ids: tuple[int, ...] = ()

    @classmethod
    def of_bundle(cls, defaults: Mapping[str, Any]) -> Settings:
        """The settings that a bundle's own generation defaults make."""
        config = GenerationConfig.resolve(defaults, {})
        return cls(
            max_new_tokens=config.max_new_tokens,
            temperature=0.0 if config.is_greedy else config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            repetition_penalty=config.repetition_penalty,
            end_ids=tuple(dict.fromkeys(config.eos_token_id + config.stop_token_ids)),
        )

    def arrays(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """Name and value of each."""
        for item in fields(self):
            value = getattr(self, item.name)
            dtype = np.float32 if isinstance(value, float) else np.int64
            yield item.name, np.array(value if isinstance(value, tuple) else [value], dtype)


def left_out_options(defaults: Mapping[str, Any]) -> list[str]:
    """Options among a bundle's generation defaults that change its texts and that the graph does not have."""
    config, plain = GenerationConfig.resolve(defaults, {}), GenerationConfig()
    names = [item.name for item in fields(config) if item.name not in _EXPRESSED]
    return [name for name in names if getattr(config, name) != getattr(plain, name)]


def write_generate_graph(bundle: Bundle, directory: Path, defaults: Mapping[str, Any]) -> None:
    """Write `generate.onnx` into a directory that holds the bundle's weights.

    Args:
        bundle: whose graph is put into the loop.
        directory: where to write; `model.onnx.data` there, at the same offsets, is shared.
        defaults: the bundle's generation defaults.

    Raises:
        BundleError: the graph is not one of ours.
    """
    step = onnx.load(str(bundle.graph_path), load_external_data=False)
    model = make_generate_model(step, bundle.manifest.context_length, Settings.of_bundle(defaults))
    onnx.save(model, str(directory / GENERATE_FILE))


def refuse_unfit(bundle: Bundle) -> None:
    """Raise BundleError for a bundle whose graph can't go into a loop."""
    manifest, where = bundle.manifest, bundle.directory
    source = manifest.source.get("location") or "SOURCE"
    if manifest.graph.foreign:
        raise BundleError(
            f"{where} was exported by others ({manifest.source.get('kind')}), and their graphs differ in what they "
            f"are told: expected a bundle of onnxgpt export; make one with onnxgpt export {source} --out DIR"
        )
    if manifest.graph.target != "cpu" or manifest.graph.dtype != "float32":
        raise BundleError(
            f"{where} is for {manifest.graph.target} in {manifest.graph.dtype}: expected a bundle for cpu in float32; "
            f"make one with onnxgpt export {source} --out DIR"
        )


def make_generate_model(step: onnx.ModelProto, context_length: int, settings: Settings) -> onnx.ModelProto:
    """The model around a step graph.

    Raises:
        BundleError: the step graph has inputs that nothing is known of.
    """
    builder = GraphBuilder("generate")
    prompt = builder.input(PROMPT, INT64, ["prompt"])
    for name, array in settings.arrays():
        _add_setting(builder, name, array)
    room = builder.node("Sub", builder.constant([context_length]), builder.node("Shape", prompt))
    limit = builder.node("Max", builder.node("Min", _setting("max_new_tokens"), room), builder.constant([0]))
    values = _sampling_values(builder, limit, _vocabulary_size(step.graph))
    tokens = _add_loop(builder, step.graph, prompt, limit, values)
    generated = builder.node("Reshape", tokens, builder.constant([-1]), name=GENERATED)
    builder.output(generated, INT64, ["generated"])
    builder.output(_add_reason(builder, generated, limit), INT64, [1])
    model = helper.make_model(
        builder.graph(),
        opset_imports=step.opset_import,
        ir_version=step.ir_version,
        producer_name="onnxgpt",
        producer_version=__version__,
    )
    return model


def _add_setting(builder: GraphBuilder, name: str, own: np.ndarray[Any, Any]) -> str:
    """An input whose empty vector stands for the bundle's own; what holds then is `settings/` and the name.

    Not an optional input: of those ONNX Runtime's JavaScript bindings tell nothing, and they pass none on.
    """
    given = builder.input(name, helper.np_dtype_to_tensor_dtype(own.dtype), [f"{name}_given"])
    is_empty = builder.node("Equal", builder.node("Shape", given), builder.constant([0]))
    count = builder.node("Mul", builder.node("Cast", is_empty, to=INT64), builder.constant([len(own)]))
    instead = builder.node("Slice", builder.constant(own), builder.constant([0]), count)
    return builder.node("Concat", given, instead, axis=0, name=_setting(name))


def _setting(name: str) -> str:
    return f"settings/{name}"


def _vocabulary_size(graph: onnx.GraphProto) -> int:
    logits = next(value for value in graph.output if value.name == _LOGITS)
    return int(logits.type.tensor_type.shape.dim[2].dim_value)


def _sampling_values(builder: GraphBuilder, limit: str, vocabulary_size: int) -> SamplingValues:
    is_greedy = builder.node("LessOrEqual", _setting("temperature"), builder.constant([0.0]))
    keeps_scores = builder.node("Equal", _setting("repetition_penalty"), builder.constant([1.0]))
    above = builder.node("Greater", _setting("top_k"), builder.constant([0]))
    below = builder.node("Less", _setting("top_k"), builder.constant([vocabulary_size]))

    def numbers(inner: GraphBuilder) -> Values:
        count = inner.node("Squeeze", limit)
        steps = inner.node("Range", inner.constant(0), count, inner.constant(1))
        return [(add_numbers(inner, _setting("seed"), steps), DOUBLE)]

    none = builder.constant(np.zeros(0))
    found, *_ = builder.branch(is_greedy, lambda _: [(none, DOUBLE)], numbers)
    return SamplingValues(
        temperature=_setting("temperature"),
        top_k=_setting("top_k"),
        top_p=_setting("top_p"),
        repetition_penalty=_setting("repetition_penalty"),
        is_greedy=is_greedy,
        is_plain=builder.node("And", is_greedy, keeps_scores),
        keeps_scores=keeps_scores,
        limits_k=builder.node("And", above, below),
        limits_p=builder.node("Less", _setting("top_p"), builder.constant([1.0])),
        numbers=found,
    )


def _add_loop(builder: GraphBuilder, step: onnx.GraphProto, prompt: str, limit: str, values: SamplingValues) -> str:
    """The Loop; int64 [new tokens, 1]."""
    row = builder.node("Unsqueeze", prompt, builder.constant([0]))
    pasts = [value for value in step.input if value.name.startswith(_PAST)]
    states = [row, row, *(_no_past(builder, value) for value in pasts)]
    body = _loop_body(builder, step, pasts, values)
    finals = [builder.fresh("final") for _ in states]
    *_, tokens = builder.nodes_of("Loop", [limit, "", *states], [*finals, builder.fresh("tokens")], body=body)
    return tokens


def _no_past(builder: GraphBuilder, value: onnx.ValueInfoProto) -> str:
    """A past [1, kv_heads, 0, head_size] of a layer."""
    dims = value.type.tensor_type.shape.dim
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return builder.constant(np.zeros((1, dims[1].dim_value, 0, dims[3].dim_value), dtype))


def _loop_body(
    builder: GraphBuilder, step: onnx.GraphProto, pasts: list[onnx.ValueInfoProto], values: SamplingValues
) -> onnx.GraphProto:
    """One turn: read `input_ids` behind the past, choose a token, and make it what the next turn reads."""
    unknown = [value.name for value in step.input if value.name not in _STEP_INPUTS and value not in pasts]
    if unknown or not pasts:
        found = ", ".join(unknown) or "no past_key_values"
        raise BundleError(f"the graph has {found} among its inputs: expected one of onnxgpt export; export it again")
    body = builder.subgraph("turn")
    turn = body.input("generate/turn", INT64, [])
    body.input("generate/going_on", BOOL, [])
    body.input("input_ids", INT64, [1, "sequence"])
    history = body.input("generate/history", INT64, [1, "total_sequence"])
    for value in pasts:
        body.input(value.name, value.type.tensor_type.elem_type, None)  # its shape is another in each turn
    # Rows of the mask are ones throughout: a text of its own has no padding.
    ones = numpy_helper.from_array(np.array([1], np.int64))
    body.nodes_of("ConstantOfShape", [body.node("Shape", history)], ["attention_mask"], value=ones)
    # Around the loop, not in it: there ONNX Runtime lets go of a weight once it has packed it.
    builder.initializers += [item for item in step.initializer if item.name != _KEEP]
    builder.initializers.append(numpy_helper.from_array(np.array([1], np.int64), _KEEP))
    body.nodes += step.node
    last = body.node("Gather", _LOGITS, body.constant([-1]), axis=1)
    logits = body.node("Reshape", last, body.constant([-1]))
    index = body.node("Reshape", turn, body.constant([1]))
    token = add_token(body, logits, history, index, values)
    hits = body.node("Cast", body.node("Equal", token, _setting("end_ids")), to=INT64)
    ended = body.node("ReduceSum", hits, keepdims=0)
    body.output(body.node("Equal", ended, body.constant(0)), BOOL, [])
    next_ids = body.node("Reshape", token, body.constant([1, 1]))
    body.output(next_ids, INT64, [1, 1])
    body.output(body.node("Concat", history, next_ids, axis=1), INT64, [1, None])
    for value in pasts:
        name = value.name.replace(_PAST, _PRESENT, 1)
        body.output(name, value.type.tensor_type.elem_type, None)
    body.output(body.node("Identity", token), INT64, [1])
    return body.graph()


def _add_reason(builder: GraphBuilder, generated: str, limit: str) -> str:
    """Why the text ends, as an index into FINISH_REASONS."""
    last = builder.node("Slice", generated, builder.constant([-1]), builder.constant([1 << 62]))
    column = builder.node("Unsqueeze", last, builder.constant([1]))
    ends = builder.node("Equal", column, builder.node("Unsqueeze", _setting("end_ids"), builder.constant([0])))
    hits = builder.node("ReduceSum", builder.node("Cast", ends, to=INT64), keepdims=0)
    by_end = builder.node("Greater", hits, builder.constant(0))
    by_context = builder.node("Less", limit, _setting("max_new_tokens"))
    otherwise = builder.node("Where", by_context, builder.constant([2]), builder.constant([0]))
    return builder.node("Where", by_end, builder.constant([1]), otherwise, name=REASON)
