"""A full-precision bundle read block by block: what is judged by need never be in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..runtime.bundle import Bundle
from .readers import ROWS, Logits, name_of
from .residuals import find_residuals
from .segments import SegmentedReading
from .text_files import TokenIds

Progress = Callable[[str, float | None], None]


class SegmentedReader:
    """A float32 bundle, one block's weights in memory at a time, and all windows' residual stream; see `Reader`."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None, progress: Progress | None = None):
        self.bundle = bundle
        self.name = name_of(bundle)
        self.context_length = bundle.manifest.context_length
        self._threads = threads
        self._progress = progress or (lambda message, fraction: None)

    @staticmethod
    def reads(bundle: Bundle, provider: str) -> bool:
        """Whether a bundle can be read so: on the CPU, in float32, with nothing quantized, exported here."""
        graph = bundle.manifest.graph
        on_cpu = provider == "cpu" or (provider == "auto" and graph.target == "cpu")
        return on_cpu and graph.dtype == "float32" and bundle.manifest.quantization is None and not graph.foreign

    def logits(self, windows: Sequence[TokenIds]) -> Iterator[Iterator[Logits]]:
        """See `Reader`. Nearly all of the work is done before the first window's logits come."""
        reading, names = self._begin(windows)
        for index, name in enumerate(names):
            self._progress("reading the text in full precision", index / len(names))
            for _ in reading.read([name]):
                pass
        if names:
            reading.cut_rows(ROWS)
        pieces = (values["logits"][0] for values in reading.read(["logits"]))
        for ids in windows:
            yield _take(pieces, len(ids))
        next(pieces, None)  # lets the reading end

    def residuals(self, windows: Sequence[TokenIds]) -> list[NDArray[np.float32]]:
        """See `Reader`."""
        reading, names = self._begin(windows)
        return [np.concatenate([values[name][0] for values in reading.read([name])]) for name in names]

    def close(self) -> None:
        """Nothing is kept between two readings."""

    def _begin(self, windows: Sequence[TokenIds]) -> tuple[_CutReading, list[str]]:
        model = ir.load(self.bundle.graph_path)
        names = [str(value.name) for value in find_residuals(model)]
        return _CutReading(model, self.bundle.directory, windows, self._threads), names


class _CutReading(SegmentedReading):
    def cut_rows(self, rows: int) -> None:
        """Cut every window into pieces of so many positions, since the last norm and the head see one at a time."""
        self._held = [
            {name: value[:, start : start + rows] for name, value in held.items()}
            for held in self._held
            for start in range(0, held["input_ids"].shape[1], rows)
        ]


def _take(pieces: Iterator[Logits], count: int) -> Iterator[Logits]:
    """The next pieces, until they have `count` rows together, `ROWS` rows at a time."""
    taken = 0
    while taken < count:
        piece = next(pieces)
        taken += len(piece)
        for row in range(0, len(piece), ROWS):
            yield piece[row : row + ROWS]
