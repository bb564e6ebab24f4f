"""The random stream of sampling: (seed, sequence, step) to a number in [0, 1), the same in every language for ever.

Threefry-2x32 with 20 rounds (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC11): additions,
rotations and exclusive ors of 32-bit words, so that any language, and an ONNX graph, can compute it. The
specification with test vectors is docs/random.md.
"""

from __future__ import annotations

import secrets

SEED_LIMIT = 1 << 64
_MASK = 0xFFFFFFFF
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA
ROUNDS = 20


def threefry2x32(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Encrypt a counter of two 32-bit words under a key of two 32-bit words.

    >>> [f"{word:08x}" for word in threefry2x32((0, 0), (0, 0))]
    ['6b200159', '99ba4efe']
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ PARITY)
    first, second = (counter[0] + keys[0]) & _MASK, (counter[1] + keys[1]) & _MASK
    for index in range(ROUNDS):
        first = (first + second) & _MASK
        turn = ROTATIONS[index % 8]
        second = (((second << turn) | (second >> (32 - turn))) & _MASK) ^ first
        if index % 4 == 3:
            injection = index // 4 + 1
            first = (first + keys[injection % 3]) & _MASK
            second = (second + keys[(injection + 1) % 3] + injection) & _MASK
    return first, second


def uniform(seed: int, sequence: int, step: int, lane: int = 0) -> float:
    """The number in [0, 1) of token `step` (from 0) of sequence `sequence` (from 0) of its prompt.

    Lane 0 chooses the token; lane 1, a number independent of it, decides whether XTC is done. A multiple of
    2**-24, so it is the same number in float32 and in float64. `seed` has 64 bits.

    >>> uniform(7, 0, 0), uniform(7, 0, 0, lane=1)
    (0.9084802269935608, 0.7352802157402039)
    """
    words = threefry2x32((seed & _MASK, (seed >> 32) & _MASK), (step & _MASK, sequence & _MASK))
    return (words[lane] >> 8) * 2.0**-24


def draw_seed() -> int:
    """A fresh seed, small enough (32 bits) to be typed again."""
    return secrets.randbits(32)
