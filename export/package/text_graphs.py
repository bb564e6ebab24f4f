"""encode and decode as models of their own, so that each half can be run and tested by itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import helper

from .arrays import Array, Arrays
from .building import GraphBuilder
from .byte_level import ByteLevelTokenizer
from .decode_graph import Decoder
from .encode_graph import Encoder

_OPSET = 20  # the bundle's own; ScatterElements by minimum came with 18
_IR_VERSION = 10


def encode_model(tokenizer: ByteLevelTokenizer) -> onnx.ModelProto:
    """`prompt` uint8 [n] to `prompt_ids` int64 [m]."""
    return _model("encode", "prompt", np.uint8, "prompt_ids", Encoder.of(tokenizer).encode)


def decode_model(tokenizer: ByteLevelTokenizer) -> onnx.ModelProto:
    """`generated_ids` int64 [m] to `continuation` uint8 [k]."""
    return _model("decode", "generated_ids", np.int64, "continuation", Decoder.of(tokenizer).decode)


def _model(name: str, given: str, dtype: DTypeLike, made: str, step: Callable[[Array], Array]) -> onnx.ModelProto:
    arrays = Arrays(GraphBuilder(name))
    arrays.output(made, step(arrays.input(given, dtype)))
    opset = helper.make_operatorsetid("", _OPSET)
    return helper.make_model(
        arrays.builder.graph(), opset_imports=[opset], ir_version=_IR_VERSION, producer_name="onnxgpt"
    )
