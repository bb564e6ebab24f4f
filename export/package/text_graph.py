"""`text.onnx`: UTF-8 of a prompt in, UTF-8 of its continuation out: generate.onnx with the tokenizer around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from ..._version import __version__
from .arrays import Array, Arrays
from .building import INT64, GraphBuilder
from .byte_level import ByteLevelTokenizer, read_byte_level
from .decode_graph import Decoder
from .encode_graph import Encoder
from .generate_graph import FINISH_REASONS, GENERATE_FILE, GENERATED, PROMPT, REASON

TEXT_FILE = "text.onnx"
PROMPT_TEXT, CONTINUATION = "prompt", "continuation"
_TOKENIZER_FILE = "tokenizer.json"


def write_text_graph(directory: Path) -> None:
    """Write `text.onnx` beside `generate.onnx`, whose weights it shares, for the directory's tokenizer.

    Raises:
        UnsupportedTokenizerError: the tokenizer cannot be written as a graph.
    """
    tokenizer = read_byte_level(directory / _TOKENIZER_FILE)
    generate = onnx.load(str(directory / GENERATE_FILE), load_external_data=False)
    onnx.save(make_text_model(generate, tokenizer), str(directory / TEXT_FILE))


def make_text_model(generate: onnx.ModelProto, tokenizer: ByteLevelTokenizer) -> onnx.ModelProto:
    """The model around that of generate.onnx: its inputs with text in place of ids, and one output more, the text.

    As there, a prompt has one token at least: an empty text fails unless the tokenizer puts something around it.
    """
    arrays = Arrays(GraphBuilder("text"))
    builder = arrays.builder
    ids = Encoder.of(tokenizer).encode(arrays.input(PROMPT_TEXT, np.uint8))
    builder.node("Identity", ids.value, name=PROMPT)
    builder.inputs += [value for value in generate.graph.input if value.name != PROMPT]
    builder.initializers += generate.graph.initializer
    builder.nodes += generate.graph.node
    arrays.output(CONTINUATION, Decoder.of(tokenizer).decode(_without_end(arrays)))
    builder.outputs += generate.graph.output
    return helper.make_model(
        builder.graph(),
        opset_imports=generate.opset_import,
        ir_version=generate.ir_version,
        producer_name="onnxgpt",
        producer_version=__version__,
    )


def _without_end(arrays: Arrays) -> Array:
    """The generated ids but the one that ended the text, which is none of it even where it is an ordinary token."""
    builder = arrays.builder
    reason = builder.node("Equal", REASON, builder.constant([FINISH_REASONS.index("end")]))
    count = builder.node("Sub", builder.node("Shape", GENERATED), builder.node("Cast", reason, to=INT64))
    value = builder.node("Slice", GENERATED, builder.constant([0]), count)
    return Array(arrays, value, np.int64)
