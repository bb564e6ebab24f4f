"""The blocks of a GGUF file in the graph: the very codes and scales that the file holds, no second rounding.

A matrix of the graph may be several of the file side by side (packed query, key and value); it is kept when all of
them have blocks. Every matrix is checked against the file's dequantized weights.

Products by 4-bit blocks are done in float32, for which ONNX Runtime has a kernel of their own: on SmolLM2 that costs a
sixth of the speed, and int8 activations are four times as far from the file's model. 8-bit blocks have none that is
usable, so their inputs are rounded to int8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..graphs.block_nodes import replace_lookup, replace_product
from ..models.checkpoint import Checkpoint
from ..models.gguf_blocks import KEPT_KINDS, StoredBlocks
from ..models.stored_matrix import StoredMatrix
from ..quantize.blocks import BlockedMatrix, BlockFormat, unpack
from ..runtime.errors import ExportError, OptionError

_COLUMNS_AT_ONCE = 4096  # of a matrix in float32 beside the file's
_ROUNDINGS = np.float32(2**-22)  # four roundings of float32, each half of 2**-23

_FLOAT_PRODUCT_BITS = 4


@dataclass
class KeptBlocks:
    """What was taken over from the file."""

    kept: dict[str, str] = field(default_factory=dict)  # matrices of the file by their names, and their GGUF types
    full_precision: dict[str, str] = field(default_factory=dict)
    largest_difference: float = 0.0  # of a weight from the file's, in float32

    def to_dict(self) -> dict[str, Any]:
        """The manifest's `quantization`."""
        return {
            "name": "kept",
            "kept": _counted(self.kept),
            "full_precision": _counted(self.full_precision),
            "largest_weight_difference": self.largest_difference,
        }


def _counted(kinds: Mapping[str, str]) -> dict[str, int]:
    """How many matrices there are of each type."""
    return dict(sorted(Counter(kinds.values()).items()))


def refuse_nothing_to_keep(checkpoint: Checkpoint) -> None:
    """Raise OptionError when no matrix of the checkpoint has blocks that can be taken over."""
    if not any(matrix.has_blocks for matrix in checkpoint.stored.values()):
        kinds = Counter(matrix.kind for matrix in checkpoint.stored.values())
        found = f"its matrices are {', '.join(sorted(kinds))}" if kinds else "it is no GGUF file"
        raise OptionError(
            f"{checkpoint.name} has no quantization to keep: {found}, expected a GGUF file with matrices of "
            f"{', '.join(KEPT_KINDS)}; export it without --keep-quantization and use onnxgpt quantize"
        )


def keep_blocks(model: ir.Model, records: Sequence[Mapping[str, Any]], checkpoint: Checkpoint) -> KeptBlocks:
    """Put the file's blocks in the place of float matrices, as far as they can be kept.

    Args:
        model: is changed; initializers that nobody reads any more are removed.
        records: of its matrices, as `describe_matrices` gives them.
        checkpoint: what the model was exported from.

    Raises:
        ExportError: a matrix in blocks is not the one that the file's dequantized weights are.
    """
    found = KeptBlocks()
    nodes = {node.name: node for node in model.graph}
    of_initializer: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        of_initializer.setdefault(record["initializer"], []).append(record)
    for name, uses in of_initializer.items():
        parts = _canonical_names(uses[0])
        stored = [checkpoint.stored[part] for part in parts if part in checkpoint.stored]
        matrix = _blocked(stored) if len(stored) == len(parts) and _can_be_used(uses) else None
        if matrix is None:
            found.full_precision |= {each.tensor: each.kind for each in stored}
            continue
        difference = _difference(matrix, [checkpoint.weights[part].numpy() for part in parts], uses[0], name)
        found.largest_difference = max(found.largest_difference, difference)
        found.kept |= {each.tensor: each.kind for each in stored}
        for record in uses:
            if record["role"].endswith("_embedding"):
                replace_lookup(model, nodes[record["node"]], name, matrix)
            else:
                exactly = matrix.format.bits == _FLOAT_PRODUCT_BITS
                replace_product(model, nodes[record["node"]], name, matrix, float_activations=exactly)
        del model.graph.initializers[name]
    return found


def _canonical_names(record: Mapping[str, Any]) -> list[str]:
    """The checkpoint's matrices that a matrix of the graph holds."""
    if not record["parts"]:
        return [record["initializer"]]
    prefix = record["initializer"].rsplit(".", 2)[0]
    return [f"{prefix}.{part['role']}.weight" for part in record["parts"]]


def _can_be_used(uses: Sequence[Mapping[str, Any]]) -> bool:
    """Positions, a small table that is added to, are looked up in full precision."""
    return all(record["role"] != "position_embedding" for record in uses)


def _blocked(stored: Sequence[StoredMatrix]) -> BlockedMatrix | None:
    """The matrices side by side, when all have blocks: in as many bits, and as small blocks, as one of them needs."""
    if not all(matrix.has_blocks for matrix in stored):
        return None
    parts = [matrix.blocks() for matrix in stored]
    bits, size = max(part.bits for part in parts), min(part.size for part in parts)
    parts = [part.widened(bits, size) for part in parts]
    codes, scales = (np.concatenate([getattr(part, name) for part in parts]) for name in ("codes", "scales"))
    shifts = None if all(part.shifts is None for part in parts) else np.concatenate([_shifts(part) for part in parts])
    return BlockedMatrix.of_codes(codes, scales, BlockFormat(bits, size), shifts)


def _shifts(part: StoredBlocks) -> NDArray[np.float32]:
    return np.zeros_like(part.scales) if part.shifts is None else part.shifts


def _difference(
    matrix: BlockedMatrix, weights: Sequence[NDArray[np.float32]], record: Mapping[str, Any], name: str
) -> float:
    """The largest difference of a weight from the file's; one that rounding does not explain is an error."""
    columns = [part if _is_table(record) else part.T for part in weights]  # each [columns, in]
    largest, start = 0.0, 0
    for expected in columns:
        for offset in range(0, len(expected), _COLUMNS_AT_ONCE):
            some = expected[offset : offset + _COLUMNS_AT_ONCE]
            part = matrix.some_columns(slice(start, start + len(some)))
            start += len(some)
            difference = np.abs(unpack(part).T - some)
            if not np.all(difference <= _allowed(part)):
                raise ExportError(
                    f"the blocks of {name} are not the weights that the file means, by {difference.max():.2g}: "
                    "export without --keep-quantization, and report it with the file's name"
                )
            largest = max(largest, float(difference.max()))
    return largest


def _allowed(matrix: BlockedMatrix) -> NDArray[np.float32] | float:
    """How far rounding may move each weight, [columns, in]: not at all when it is one product."""
    if matrix.shifts is None:
        return 0.0
    largest = np.abs(matrix.scales) * np.float32(2**matrix.format.bits) + np.abs(matrix.shifts)
    return np.asarray(np.repeat(largest * _ROUNDINGS, matrix.format.block_size, axis=1))


def _is_table(record: Mapping[str, Any]) -> bool:
    """Whether the checkpoint holds it as [rows, width], the blocks along a row."""
    return bool(record["transposed"] or record["role"].endswith("_embedding"))
