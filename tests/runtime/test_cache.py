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


def filled(cache, lengths):
    """Each token of a row holds row * 100 + its position, in every layer."""
    for index, length in enumerate(lengths):
        with cache.row(index) as row:
            values = [np.broadcast_to(index * 100.0 + np.arange(length)[:, None], (1, heads, length, size))
                      for heads, size in LAYOUT.layers for _ in range(2)]  # fmt: skip
            if cache.shares_buffer:
                for buffer, pair in zip(row.buffers, zip(values[::2], values[1::2], strict=True), strict=True):
                    buffer[:, :, :, :length] = pair
                row.advance(length)
            else:
                row.advance(length, [value.astype(np.float32) for value in values])
    return cache


def contents(cache):
    """The first value of each token, row by row; all layers and heads must agree."""
    parts = [part for buffer in cache.buffers for part in buffer] if cache.shares_buffer else cache.values
    rows = [[part[row, 0, :length, 0].tolist() for row, length in enumerate(cache.lengths)] for part in parts]
    assert all(found == rows[0] for found in rows)
    return rows[0]


@pytest.fixture(params=[True, False], ids=["shared", "separate"])
def any_cache(request):
    budget = MemoryBudget()
    if request.param:
        return KVCache(LAYOUT, batch=3, capacity=8, limit=200, budget=budget)
    return SeparateKVCache(LAYOUT, batch=3, limit=200, budget=budget)


def test_rows_leave_and_come(any_cache):
    cache = filled(any_cache, (2, 4, 3))
    cache.drop_row(0)
    assert contents(cache) == [[200, 201, 202], [100, 101, 102, 103]]
    assert (cache.batch, cache.length) == (2, 4)
    cache.drop_row(1)
    assert contents(cache) == [[200, 201, 202]]
    assert cache.length == 3
    assert cache.add_row() == 1
    assert contents(cache) == [[200, 201, 202], []]
    cache.copy_row(0, 1, 2)
    assert contents(cache) == [[200, 201, 202], [200, 201]]
    cache.clear()
    assert (cache.batch, cache.length, cache.add_row()) == (0, 0, 0)
    assert contents(cache) == [[]]


def test_rows_in_use_keep_their_content_when_a_cache_grows():
    cache = KVCache(LAYOUT, batch=3, capacity=8, limit=200, budget=MemoryBudget())
    filled(cache, (2, 4, 3)).drop_row(1)
    used = cache._budget.used
    cache.ensure(150)
    assert contents(cache) == [[0, 1], [200, 201, 202]]
    assert cache._budget.used == used == 3 * 200 * PER_TOKEN
    assert cache.add_row() == 2
    assert all(buffer.shape[1] == 3 for buffer in cache.buffers)
    cache.close()
    assert cache._budget.used == 0


def test_rows_leave_a_copy_alone(any_cache):
    cache = filled(any_cache, (2, 4, 3))
    with cache.copy() as twin:
        twin.copy_row(0, 1, 1)
        twin.drop_row(0)
        assert contents(twin) == [[200, 201, 202], [0]]
        assert contents(cache) == [[0, 1], [100, 101, 102, 103], [200, 201, 202]]
