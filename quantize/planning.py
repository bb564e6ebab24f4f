"""Planning: which matrices of a block recipe get more bits, by what each one bears."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .blocks import BlockFormat
from .recipe import BlockRecipe, Record
from .sensitivity import measure_sensitivity

Progress = Callable[[str, float | None], None]

_PROBE = 96  # tokens of the first and of the last window: plain text and, for a chat model, conversation
_SHARE_LEFT_BY_GPTQ = (
    0.22  # of the sum of the loss of single matrices, each rounded to its nearest codes; a first guess
)
_MARGIN = 0.9  # of the limit, aimed at once a guess was measured
_FINEST = BlockFormat(8, 32)


def needs_plan(recipe: BlockRecipe) -> bool:
    """Whether the recipe leaves to measurement which matrices are raised."""
    return not recipe.raised_matrices and (recipe.reaches_limit or recipe.raise_share > 0)


class Planner:
    """Chooses the matrices to raise; tries again where a limit was not reached."""

    def __init__(self, recipe: BlockRecipe, sizes: Mapping[str, int], sensitivity: Mapping[str, float]):
        """Rank the matrices.

        Args:
            recipe: with `raise_share` or `reaches_limit`.
            sizes: weights of each matrix of the layers.
            sensitivity: of each, see `measure_sensitivity`.
        """
        self._recipe = recipe
        self._sizes = sizes
        self._loss = {name: max(value, 0.0) for name, value in sensitivity.items()}
        self._ranking = sorted(sizes, key=lambda name: -self._loss[name] / sizes[name])
        self._raised = 0  # how many of the ranking

    def first(self) -> BlockRecipe:
        """The recipe to begin with."""
        if self._recipe.reaches_limit:
            self._raised = self._fewest(self._recipe.max_kl / _SHARE_LEFT_BY_GPTQ)
            return self._planned()
        room = self._recipe.raise_share * sum(self._sizes.values())
        chosen = []
        for name in self._ranking:
            if self._sizes[name] <= room:
                room -= self._sizes[name]
                chosen.append(name)
        return replace(self._recipe, raised_matrices=tuple(chosen))

    def next(self, divergence: float) -> BlockRecipe | None:
        """A better recipe after one that came out over its limit; None when there is none."""
        if not self._recipe.reaches_limit:
            return None
        if self._raised == len(self._ranking):
            if self._recipe.raised == _FINEST:
                return None
            self._recipe = replace(self._recipe, raised=_FINEST)
            return self._planned()
        left = sum(self._loss[name] for name in self._ranking[self._raised :])
        fewest = self._fewest(left * _MARGIN * self._recipe.max_kl / divergence)
        self._raised = min(max(fewest, self._raised + len(self._ranking) // 16 + 1), len(self._ranking))
        return self._planned()

    def _planned(self) -> BlockRecipe:
        return replace(self._recipe, raised_matrices=tuple(self._ranking[: self._raised]))

    def _fewest(self, allowed: float) -> int:
        """How many of the ranking to raise, so that the loss of the rest adds up to no more than allowed."""
        losses = [self._loss[name] for name in self._ranking]
        return next(count for count in range(len(losses) + 1) if sum(losses[count:]) <= allowed)


def make_planner(
    model: ir.Model,
    directory: Path,
    recipe: BlockRecipe,
    records: Sequence[Record],
    windows: Sequence[NDArray[np.int64]],
    *,
    threads: int | None,
    progress: Progress | None,
) -> Planner:
    """Measure every matrix of the layers in the full-precision graph, whose weights lie in `directory`."""
    layers = [record for record in records if record["layer"] is not None]
    products = {record["initializer"]: record["node"] for record in layers}
    sizes = {record["initializer"]: int(np.prod(record["shape"])) for record in layers}
    length = min(_PROBE, len(windows[0]) // 2)  # both halves together fit the context, as each window does
    probe = np.concatenate([windows[0][:length], windows[-1][:length]])
    sensitivity = measure_sensitivity(
        model, directory, products, recipe.layers, probe, threads=threads, progress=progress
    )
    return Planner(recipe, sizes, sensitivity)
