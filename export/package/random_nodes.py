"""The random stream of sampling (docs/random.md) as nodes: Threefry-2x32 over all steps at once."""

from __future__ import annotations

import numpy as np

from ...runtime.random import PARITY, ROTATIONS, ROUNDS
from .building import DOUBLE, UINT32, UINT64, GraphBuilder


def add_numbers(builder: GraphBuilder, seed: str, steps: str) -> str:
    """The numbers in [0, 1) of steps of sequence 0.

    Args:
        builder: gets the nodes.
        seed: int64 [1], the 64 bits of the seed.
        steps: int64 [steps].

    Returns:
        float64 [steps].
    """
    bits = builder.node("Cast", seed, to=UINT64)
    high = builder.node("BitShift", bits, builder.constant([32], np.uint64), direction="RIGHT")
    low = builder.node("BitwiseAnd", bits, builder.constant([0xFFFFFFFF], np.uint64))
    first_key, second_key = (builder.node("Cast", word, to=UINT32) for word in (low, high))
    mixed = builder.node("BitwiseXor", first_key, second_key)
    keys = (first_key, second_key, builder.node("BitwiseXor", mixed, _word(builder, PARITY)))
    counter = builder.node("Cast", builder.node("Cast", steps, to=UINT64), to=UINT32)
    first = builder.node("Add", counter, keys[0])
    second = builder.node("Expand", keys[1], builder.node("Shape", counter))  # sequence 0
    for index in range(ROUNDS):
        first = builder.node("Add", first, second)
        second = builder.node("BitwiseXor", _rotated(builder, second, ROTATIONS[index % len(ROTATIONS)]), first)
        if index % 4 == 3:
            injection = index // 4 + 1
            first = builder.node("Add", first, keys[injection % 3])
            key = builder.node("Add", keys[(injection + 1) % 3], _word(builder, injection))
            second = builder.node("Add", second, key)
    top = builder.node("BitShift", first, _word(builder, 8), direction="RIGHT")
    return builder.node("Mul", builder.node("Cast", top, to=DOUBLE), builder.constant(2.0**-24, np.float64))


def _rotated(builder: GraphBuilder, word: str, turn: int) -> str:
    left = builder.node("BitShift", word, _word(builder, turn), direction="LEFT")
    right = builder.node("BitShift", word, _word(builder, 32 - turn), direction="RIGHT")
    return builder.node("BitwiseOr", left, right)


def _word(builder: GraphBuilder, value: int) -> str:
    return builder.constant([value], np.uint32)
