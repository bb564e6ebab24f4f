"""Reordering a cache as a beam search does: children hold their parents' tokens, and little is copied for it."""

import numpy as np
import pytest

from onnxgpt.runtime.cache import CacheLayout, KVCache, SeparateKVCache
from onnxgpt.runtime.kinship import Kinship, RowCopy
from onnxgpt.runtime.memory import MemoryBudget

LAYOUT = CacheLayout(((2, 8), (1, 4)), np.dtype(np.float32))
BATCH = 4


def new_cache(shares_buffer):
    if shares_buffer:
        return KVCache(LAYOUT, BATCH, capacity=4, limit=500, budget=MemoryBudget())
    return SeparateKVCache(LAYOUT, BATCH, limit=500, budget=MemoryBudget())


def append(cache, tokens):
    """One step: the keys and values of a token are its own number."""
    length = cache.length
    cache.ensure(length + 1)
    column = np.array(tokens, np.float32)[:, None, None]
    if isinstance(cache, KVCache):
        for buffer in cache.buffers:
            buffer[:, :, :, length] = column
        cache.advance(1)
    else:
        new = [np.pad(value, ((0, 0), (0, 0), (0, 1), (0, 0))) for value in cache.values]
        for value in new:
            value[:, :, length] = column
        cache.advance(1, new)


def contents(cache):
    """Of each row its tokens, which every layer, key, value and head must agree on."""
    length = cache.length
    parts = [part for buffer in cache.buffers for part in buffer] if isinstance(cache, KVCache) else cache.values
    for part in parts:
        np.testing.assert_array_equal(part[:, :1, :length, :1] + 0 * part[:, :, :length], part[:, :, :length])
    for part in parts[1:]:
        np.testing.assert_array_equal(part[:, 0, :length, 0], parts[0][:, 0, :length, 0])
    return parts[0][:, 0, :length, 0].astype(int).tolist()


@pytest.mark.parametrize("shares_buffer", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_children_hold_their_parents_tokens(shares_buffer, seed):
    random = np.random.default_rng(seed)
    with new_cache(shares_buffer) as cache:
        texts = [[number] for number in range(BATCH)]  # in the order of children
        append(cache, range(BATCH))
        rows = list(range(BATCH))
        for step in range(1, 100):
            parents = random.integers(0, BATCH, BATCH).tolist()
            tokens = [step * 10 + child for child in range(BATCH)]
            texts = [[*texts[parent], token] for parent, token in zip(parents, tokens, strict=True)]
            rows = cache.reorder([rows[parent] for parent in parents])
            assert sorted(rows) == list(range(BATCH))
            by_row = dict(zip(rows, tokens, strict=True))
            append(cache, [by_row[row] for row in range(BATCH)])
            held = contents(cache)
            assert [held[row] for row in rows] == texts
            if step % 30 == 0:
                cache.truncate(cache.length - 3)
                texts = [text[:-3] for text in texts]


def test_what_rows_share_is_not_copied_again():
    kinship = Kinship(3)
    assert kinship.adopt([0, 0, 0], np.array([50, 0, 0])) == (
        [0, 1, 2],
        [RowCopy(1, 0, 0), RowCopy(2, 0, 0)],
    )
    assert kinship.adopt([0, 1, 2], np.full(3, 51)) == ([0, 1, 2], [])  # every child in its parent's row
    assert kinship.adopt([2, 2, 0], np.full(3, 52)) == ([2, 1, 0], [RowCopy(1, 2, 50)])  # the prompt stays
    assert kinship.adopt([1, 1, 0], np.full(3, 53)) == ([1, 2, 0], [RowCopy(2, 1, 52)])  # siblings of one step ago


def test_a_child_takes_the_row_that_has_most_in_common_with_its_parent():
    kinship = Kinship(4)
    kinship.adopt([0, 0, 2, 2], np.full(4, 10))
    assert kinship.adopt([3, 3, 1, 1], np.full(4, 12)) == ([3, 2, 1, 0], [RowCopy(2, 3, 10), RowCopy(0, 1, 10)])


def test_a_row_that_was_lent_is_copied_in_full():
    with new_cache(True) as cache:
        for step in range(3):
            append(cache, [step] * BATCH)
        cache.reorder([0] * BATCH)
        row = cache.row(1)
        row.truncate(1)
        append(row, [7])
        append(row, [8])
        cache.reorder([0, 0, 2, 3])
        assert contents(cache)[1] == [0, 1, 2]


def test_a_copied_cache_keeps_its_tokens_when_its_twin_is_reordered():
    with new_cache(False) as cache:
        append(cache, range(BATCH))
        with cache.copy() as twin:
            twin.reorder([3] * BATCH)
            assert contents(twin) == [[3]] * BATCH
            assert contents(cache) == [[0], [1], [2], [3]]
