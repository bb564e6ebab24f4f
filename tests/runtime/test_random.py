"""The random stream: the published vectors of Threefry-2x32-20 (Random123, kat_vectors) and our own specification."""

import re
from pathlib import Path

import numpy as np
import pytest

from onnxgpt.runtime.random import draw_seed, threefry2x32, uniform

SPECIFICATION = Path(__file__).parents[2] / "docs" / "random.md"


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_published_vectors(key, counter, expected):
    assert threefry2x32(key, counter) == expected


def test_vectors_of_the_specification():
    rows = re.findall(
        r"^\| (\d+) \| (\d+) \| (\d+) \| \w+ \| \w+ \| ([\d.]+) \| ([\d.]+) \|$", SPECIFICATION.read_text(), re.M
    )
    assert len(rows) == 6
    for seed, sequence, step, *numbers in rows:
        counter = int(seed), int(sequence), int(step)
        assert [uniform(*counter), uniform(*counter, lane=1)] == [float(number) for number in numbers]


def test_numbers_are_uniform_and_exact_in_float32():
    numbers = np.array([uniform(11, sequence, step) for sequence in range(20) for step in range(500)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert (numbers.astype(np.float32) == numbers).all()
    observed, _ = np.histogram(numbers, bins=50, range=(0, 1))
    chi_square = ((observed - 200) ** 2 / 200).sum()
    assert chi_square < 85.35  # the 0.1 % point of chi-square with 49 degrees of freedom


def test_every_part_of_the_counter_matters():
    assert (
        len({uniform(seed, sequence, step) for seed in (1, 2, 1 << 40) for sequence in (0, 1) for step in (0, 1)}) == 12
    )


def test_a_drawn_seed_is_new_and_can_be_typed():
    seeds = {draw_seed() for _ in range(20)}
    assert len(seeds) > 10
    assert max(seeds) < 1 << 32
