"""Writes a graph and its weights: the weights straight into one file beside it, never through protobuf."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from ..runtime.bundle import GRAPH_FILE, WEIGHTS_FILE

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector registers
_PAGE = 4096  # bytes: what a memory map can start at
_PAGE_FROM = 65536  # bytes: tensors that are worth a page of their own

_INLINE_BELOW = 1024  # bytes
_IR_VERSION = 10  # ONNX Runtime reads it from 1.20 on


def write_model(model: ir.Model, directory: Path) -> None:
    """Write `model.onnx` and `model.onnx.data`.

    Weights go into the data file, one tensor after the other, so that no more than one at a time is in memory beside
    its source; the model then refers to the file. Small constants (axes, shapes) stay in the graph, where ONNX Runtime
    reads them before it knows the file.
    """
    with (directory / WEIGHTS_FILE).open("wb") as stream:
        for value in model.graph.initializers.values():
            _store(value, stream, directory)
    _write_graph(model, directory)


def extend_model(model: ir.Model, directory: Path) -> None:
    """Write `model.onnx` again after `write_model`, with what it got since: new weights go behind the others."""
    with (directory / WEIGHTS_FILE).open("ab") as stream:
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if not (isinstance(tensor, ir.ExternalTensor) and Path(tensor.base_dir) == directory):
                _store(value, stream, directory)
    _write_graph(model, directory)


def _store(value: ir.Value, stream: BinaryIO, directory: Path) -> None:
    """Move an initializer's tensor to the end of the data file, when that is where it belongs."""
    tensor = value.const_value
    if tensor is None or len(tensor.shape) == 0:
        return
    if not tensor.dtype.is_floating_point() and tensor.nbytes < _INLINE_BELOW:
        return
    stream.write(bytes(-stream.tell() % (_PAGE if tensor.nbytes >= _PAGE_FROM else _ALIGNMENT)))
    offset = stream.tell()
    # As bytes: numpy has no buffers of the types that it does not know itself, such as bfloat16.
    stream.write(np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data)
    value.const_value = ir.ExternalTensor(
        WEIGHTS_FILE,
        offset,
        stream.tell() - offset,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=str(value.name),
        base_dir=directory,
    )


def _write_graph(model: ir.Model, directory: Path) -> None:
    model.ir_version = _IR_VERSION
    ir.save(model, directory / GRAPH_FILE)
