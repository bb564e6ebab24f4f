"""Caches on a device against the cache in numpy arrays: whatever is done to them, they hold the same tokens."""

import ctypes
from contextlib import contextmanager

import numpy as np
import onnx
import pytest

from onnxgpt.runtime.cache import CacheLayout, KVCache
from onnxgpt.runtime.device_buffers import DeviceBuffers, RowBuffers
from onnxgpt.runtime.device_memory import DeviceMemory, DeviceRoom
from onnxgpt.runtime.device_store import DeviceStore
from onnxgpt.runtime.devices import devices_of
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.errors import MemoryLimitError
from onnxgpt.runtime.identity_graph import identity_graph
from onnxgpt.runtime.memory import MemoryBudget

SIZES = ((2, 8), (1, 4), (3, 4))  # heads and head sizes, as no model mixes them
LAYOUTS = [
    CacheLayout(SIZES, np.dtype(np.float32)),
    CacheLayout(SIZES, np.dtype(np.float16)),
    CacheLayout(SIZES, np.dtype(np.int8)),
    CacheLayout(SIZES, np.dtype(np.uint16), is_bfloat16=True),
]
KINDS = {DeviceBuffers: True, RowBuffers: False}  # and whether addresses can be counted with
ROWS, LIMIT = 4, 300
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "dml": "DmlExecutionProvider"}


def new_store(layout, *, is_addressable=True, room=None, device="cpu"):
    if PROVIDERS[device] not in ort.get_available_providers() or not devices_of(device):
        pytest.skip(f"needs a device of {device}, and the build of ONNX Runtime for it")
    session = ort.InferenceSession(identity_graph(1, 1, 1), providers=[PROVIDERS[device]])
    return DeviceStore(session, layout, device=device, is_addressable=is_addressable, room=room)


def new_cache(kind, layout, budget=None, room=None, device="cpu"):
    store = new_store(layout, is_addressable=KINDS[kind], room=room, device=device)
    return KVCache(layout, ROWS, 4, LIMIT, budget or MemoryBudget(), lambda *arguments: kind(store, *arguments))


@contextmanager
def tensors(cache):
    """Of each row, layer by layer key and value [kv_heads, capacity, head_size], as arrays that may be written into."""
    buffers, layout = cache._buffers, cache.layout
    first, stop = cache._first, cache._first + cache.batch
    if isinstance(buffers, RowBuffers):
        values = [value for row in buffers.values[first:stop] for value in row]
        arrays = [over(value, layout) for value in values]
        width = layout.tensors
        yield [[array[0] for array in arrays[row * width : (row + 1) * width]] for row in range(cache.batch)]
    else:
        is_device = isinstance(buffers, DeviceBuffers)
        values = buffers.values if is_device else []
        arrays = [over(value, layout) for value in values] if is_device else buffers.arrays
        yield [[array[kind, row] for array in arrays for kind in range(2)] for row in range(first, stop)]
    for value, array in zip(values, arrays, strict=False):
        if value.device_name() != "cpu":
            value.update_inplace(array)


def over(value, layout):
    """A tensor as an array: over the same memory where that is the computer's."""
    if value.device_name() != "cpu":
        return value.numpy()
    count = int(np.prod(value.shape()))
    memory = (ctypes.c_char * (count * layout.dtype.itemsize)).from_address(value.data_ptr())
    return np.frombuffer(memory, layout.dtype).reshape(value.shape())


def append(cache, random):
    """What a step does: every row gets a token."""
    cache.ensure(cache.length + 1)
    with tensors(cache) as rows:
        for row, length in zip(rows, cache.lengths, strict=True):
            for tensor in row:
                heads, _, size = tensor.shape
                tensor[:, length] = random.integers(0, 100, (heads, size))
    cache.advance(1)


def contents(cache):
    with tensors(cache) as rows:
        return [
            [tensor[:, :length].tolist() for tensor in row] for row, length in zip(rows, cache.lengths, strict=True)
        ]


@pytest.mark.parametrize(
    ("device", "kind", "layout"),
    [
        # Rows that lie for themselves are DirectML's, which has no bfloat16; nor has numpy, by which they grow.
        *(("cpu", kind, layout) for kind in KINDS for layout in LAYOUTS if KINDS[kind] or not layout.is_bfloat16),
        *(pytest.param("cuda", DeviceBuffers, layout, marks=pytest.mark.cuda) for layout in LAYOUTS[:3]),
        pytest.param("dml", RowBuffers, LAYOUTS[1], marks=pytest.mark.dml),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_device_holds_what_arrays_hold(device, kind, layout, seed):
    caches = [KVCache(layout, ROWS, 4, LIMIT, MemoryBudget()), new_cache(kind, layout, device=device)]
    for cache in caches:
        random = np.random.default_rng(seed)  # the same for both
        cache.clear()
        cache.add_row()
        for _ in range(150):
            deed = random.choice(["append", "append", "append", "add", "drop", "copy", "reorder", "truncate", "row"])
            row = int(random.integers(0, cache.batch))
            other = int(random.integers(0, cache.batch))
            if deed == "append" and cache.length < LIMIT:
                append(cache, random)
            elif deed == "add" and cache.batch < ROWS:
                cache.copy_row(row, cache.add_row(), int(cache.lengths[row]))
            elif deed == "drop" and cache.batch > 1:
                cache.drop_row(row)
            elif deed == "copy" and row != other:
                cache.copy_row(row, other, int(random.integers(0, cache.lengths[row] + 1)))
            elif deed == "reorder":
                cache.reorder(random.integers(0, cache.batch, cache.batch).tolist())
            elif deed == "truncate":
                cache.truncate(int(cache.length - random.integers(0, 3)))
            elif deed == "row":
                with cache.row(row) as view:
                    view.truncate(max(0, view.length - 2))
                    view_room = view.capacity - view.length
                    if view_room > 1:
                        append(view, random)
        for _ in range(70):  # over the first capacity in any case
            if cache.length < LIMIT:
                append(cache, random)
    host, device = caches
    assert host.lengths.tolist() == device.lengths.tolist()
    assert host.capacity == device.capacity > 64
    assert contents(host) == contents(device)
    with device.copy() as twin:
        assert contents(twin) == contents(device)
        twin.truncate(0)
        append(twin, np.random.default_rng(9))
        assert contents(device) == contents(host)


@pytest.mark.parametrize("kind", KINDS)
def test_closing_a_device_cache_gives_everything_back(kind):
    budget = MemoryBudget()
    cache = new_cache(kind, LAYOUTS[0], budget)
    assert budget.used == LAYOUTS[0].bytes_per_token() * ROWS * LIMIT
    with cache.row(1):
        pass
    assert budget.used > 0
    assert cache._buffers.values
    cache.close()
    cache.close()
    assert budget.used == 0
    assert not cache._buffers.values


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_device_names_the_largest_context_and_leaves_the_cache_as_it_was(kind, monkeypatch):
    layout, budget = LAYOUTS[0], MemoryBudget()
    room = DeviceRoom("cuda device 0", 90 * ROWS * layout.bytes_per_token(), layout.bytes_per_token(), DeviceMemory)
    cache = new_cache(kind, layout, budget, room)
    random = np.random.default_rng(1)
    for _ in range(64):
        append(cache, random)
    before, used = contents(cache), budget.used
    allocate = DeviceStore.allocate
    # The CPU's own allocator refuses this many bytes, in the words that those of devices have.
    monkeypatch.setattr(DeviceStore, "allocate", lambda store, _, *others: allocate(store, [1 << 55], *others))
    with pytest.raises(
        MemoryLimitError, match=r"cuda device 0 is out of memory: .*largest context of 4 rows that fits has 90 tokens"
    ):
        cache.ensure(65)
    assert (cache.capacity, cache.length, budget.used) == (64, 64, used)
    assert contents(cache) == before
    with pytest.raises(MemoryLimitError, match="out of memory"):
        new_cache(kind, layout, budget, room)
    assert budget.used == used


@pytest.mark.parametrize("element_type", [1, 2, 3, 10, 16])
def test_the_graph_of_copies_is_sound(element_type):
    model = onnx.load_from_string(identity_graph(130, element_type, 4))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Identity"] * 130
    types = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert types == {element_type}
    assert [(node.input[0], node.output[0]) for node in model.graph.node][129] == ("from_129", "to_129")
    ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
