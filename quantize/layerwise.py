"""From full-precision matrices to blocks, some layers at a time: smoothed first, then rounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import numpy as np
import onnx_ir as ir

from ..graphs.editing import read_weights
from ..runtime.errors import QuantizationError
from .blocks import Weights
from .calibration import InputStatistics
from .recipe import Matrix, QuantRecipe, Record
from .smoothing import Sharing, choose_scale


@dataclass
class Changes(Generic[Matrix]):
    """What quantization puts in place of initializers: a recipe's matrices, new values for norms and biases."""

    matrices: dict[str, Matrix] = field(default_factory=dict)
    vectors: dict[str, Weights] = field(default_factory=dict)
    embedding_scale: Weights | None = None  # [hidden]: a tied embedding's rows come out multiplied by it


class LayerQuantizer(Generic[Matrix]):
    """Quantizes groups of matrices that smoothing ties together: those of one layer, or the head."""

    def __init__(self, graph: ir.Graph, recipe: QuantRecipe[Matrix], architecture: Mapping[str, Any]):
        self._graph = graph
        self._recipe = recipe
        kv_heads = int(architecture["num_kv_heads"])
        heads = int(architecture.get("num_heads", kv_heads))  # unknown where no matrix shares values either
        self._value_sharing: Sharing = (kv_heads, heads // kv_heads, int(architecture["head_size"]))
        self.changes: Changes[Matrix] = Changes()

    def quantize(self, records: Sequence[Record], statistics: Mapping[str, InputStatistics]) -> Iterator[str]:
        """Fill `changes` for some matrices; gives the name of each when it is done.

        Raises:
            QuantizationError: a matrix has a NaN or an infinity in it.
        """
        weights = {record["initializer"]: self._matrix(record) for record in records}
        by_name = {record["initializer"]: record for record in records}
        found = dict(statistics)
        if self._recipe.smooth:
            for record in records:
                self._smooth(record, by_name, weights, found)
        for record in records:
            name = record["initializer"]
            self.changes.matrices[name] = self._recipe.quantize(weights.pop(name), record, found.get(name))
            yield name

    def _matrix(self, record: Record) -> Weights:
        """A matrix [in, out] by its record; an embedding that is looked up in, [width, rows]."""
        weights = self._tensor(record["initializer"])
        if not np.isfinite(weights).all():
            raise QuantizationError(
                f"{record['initializer']} has a NaN or an infinity in it: expected finite weights; check the checkpoint"
            )
        turned = record["transposed"] or record["role"] == "token_embedding"
        return np.ascontiguousarray(weights.T) if turned else weights

    def _tensor(self, name: str) -> Weights:
        if name in self.changes.vectors:
            return self.changes.vectors[name]
        return read_weights(self._graph, name)

    def _smooth(
        self,
        record: Record,
        by_name: Mapping[str, Record],
        weights: dict[str, Weights],
        found: dict[str, InputStatistics],
    ) -> None:
        """Move the scale of one matrix's input to what makes that input, where something can take it."""
        name, norm, source = record["initializer"], record["norm"], record["fed_by"]
        if name not in found or (norm is None and source is None):
            return
        sharing = self._value_sharing if source is not None and source["part"] == "value" else None
        form = self._recipe.format_of(record)
        scale = choose_scale(weights[name], found[name], form, sharing)
        weights[name] *= scale[:, None]
        found[name] = found[name].scaled(scale)
        if norm is not None:
            self._divide_vector(norm, slice(None), scale)
            bias = norm.removesuffix("weight") + "bias"
            if bias in self._graph.initializers:
                self._divide_vector(bias, slice(None), scale)
            if record["transposed"]:
                self.changes.embedding_scale = np.reciprocal(scale)
        else:
            once = scale if sharing is None else np.ascontiguousarray(scale.reshape(sharing)[:, 0]).reshape(-1)
            self._divide_columns(source, by_name, weights, once)

    def _divide_columns(
        self, source: Mapping[str, str], by_name: Mapping[str, Record], weights: dict[str, Weights], scale: Weights
    ) -> None:
        name = source["initializer"]
        record = by_name[name]
        part = next(part for part in record["parts"] if part["role"] == source["part"])
        columns = slice(part["start"], part["stop"])
        weights[name][:, columns] /= scale
        if record["bias"] is not None:
            self._divide_vector(record["bias"], columns, scale)

    def _divide_vector(self, name: str, part: slice, scale: Weights) -> None:
        vector = self._tensor(name).copy()
        vector[part] /= scale
        self.changes.vectors[name] = vector
