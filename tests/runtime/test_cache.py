import numpy as np
import pytest

from onnxgpt.runtime.cache import CacheLayout, KVCache, SeparateKVCache
from onnxgpt.runtime.errors import MemoryLimitError, OptionError
from onnxgpt.runtime.memory import MemoryBudget, format_bytes, parse_bytes

LAYOUT = CacheLayout(((2, 8), (1, 4)), np.dtype(np.float32))
PER_TOKEN = 2 * (2 * 8 + 1 * 4) * 4


def test_bytes_per_token():
    assert LAYOUT.bytes_per_token() == PER_TOKEN


def test_growing_keeps_the_content_and_reserves_the_promise_once():
    budget = MemoryBudget()
    cache = KVCache(LAYOUT, batch=2, capacity=10, limit=300, budget=budget)
    assert cache.capacity == 64
    assert budget.used == 300 * PER_TOKEN * 2
    for buffer in cache.buffers:
        buffer[:, :, :, :5] = 7
    cache.advance(5)
    cache.ensure(65)
    assert cache.capacity == 128
    assert budget.used == 300 * PER_TOKEN * 2
    assert all((buffer[:, :, :, :5] == 7).all() for buffer in cache.buffers)
    cache.ensure(300)
    assert cache.capacity == 300
    with pytest.raises(ValueError, match="can't hold 301"):
        cache.ensure(301)
    cache.close()
    cache.close()
    assert budget.used == 0
    assert cache.buffers == []


def test_rows_share_memory_and_lengths():
    cache = KVCache(LAYOUT, batch=3, capacity=4, limit=64, budget=MemoryBudget())
    row = cache.row(1)
    row.buffers[0][...] = 5
    row.advance(2)
    assert cache.lengths.tolist() == [0, 2, 0]
    assert (cache.buffers[0][:, 1] == 5).all()
    assert all(part.flags.c_contiguous for part in row.buffers[0])
    with pytest.raises(ValueError, match="can't hold"):
        row.ensure(65)


def test_copies_are_independent():
    budget = MemoryBudget()
    cache = KVCache(LAYOUT, batch=1, capacity=4, limit=64, budget=budget)
    cache.buffers[0][...] = 1
    cache.advance(3)
    with cache.copy() as twin:
        assert budget.used == 2 * 64 * PER_TOKEN
        twin.buffers[0][:, :, :, :3] = 2
        assert (cache.buffers[0] == 1).all()
        assert twin.length == 3
    assert budget.used == 64 * PER_TOKEN


def test_a_budget_refuses_before_anything_is_allocated():
    budget = MemoryBudget(1000)
    with pytest.raises(MemoryLimitError, match="over the limit of 1\\.0 kB"):
        KVCache(LAYOUT, batch=1, capacity=1, limit=64, budget=budget)
    assert budget.used == 0


def test_separate_caches_hand_rows_on():
    cache = SeparateKVCache(LAYOUT, batch=2, limit=64, budget=MemoryBudget())
    for index, length in enumerate((3, 5)):
        presents = [np.full((1, heads, length, size), index + 1.0, np.float32)
                    for heads, size in LAYOUT.layers for _ in range(2)]  # fmt: skip
        cache.row(index).advance(length, presents)
    assert cache.lengths.tolist() == [3, 5]
    assert [value.shape[2] for value in cache.values] == [5] * 4
    assert (cache.values[0][0, :, :3] == 1).all()
    assert (cache.values[0][1] == 2).all()
    cache.truncate(2)
    assert cache.lengths.tolist() == [2, 2]
    assert cache.values[3].shape == (2, 1, 2, 4)


@pytest.mark.parametrize(
    ("text", "count"), [("500", 500), (500, 500), ("1.5 MB", 1_500_000), ("2GiB", 2 << 30), ("3kb", 3000)]
)
def test_sizes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "much", "5 XB", "-3", "1e3"])
def test_no_sizes(text):
    with pytest.raises(OptionError, match="is no size"):
        parse_bytes(text)


def test_sizes_for_people():
    assert [format_bytes(count) for count in (999, 1500, 151_200_000, 2_500_000_000)] == [
        "999 bytes", "1.5 kB", "151.2 MB", "2.5 GB",
    ]  # fmt: skip
