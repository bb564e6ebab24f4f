"""Sessions over caches of 8 and 4 bits: a one-layer graph made here, against the same attention worked out in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxgpt.runtime.cache import CacheLayout
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.errors import BundleError
from onnxgpt.runtime.manifest import GraphRecord
from onnxgpt.runtime.session import Session
from onnxgpt.runtime.settings import SessionSettings

pytestmark = pytest.mark.skipif(
    tuple(map(int, ort.__version__.split(".")[:2])) < (1, 25),
    reason="ONNX Runtime 1.23, the last for Python 3.10, and 1.24 have no caches of 8 and 4 bits",
)

HEADS, KV_HEADS, SIZE, VOCABULARY, CONTEXT = 4, 2, 16, 23, 96
GROUP = HEADS // KV_HEADS
RNG = np.random.default_rng(5)
# The token embedding is the packed query, key and value; one key channel is far larger than the others.
PACKED = RNG.standard_normal((VOCABULARY, (HEADS + 2 * KV_HEADS) * SIZE)).astype(np.float32)
PACKED[:, HEADS * SIZE + 3] *= 20
HEAD = RNG.standard_normal((HEADS * SIZE, VOCABULARY)).astype(np.float32)
KEY_SCALE = np.abs(PACKED[:, HEADS * SIZE : (HEADS + KV_HEADS) * SIZE]).max(axis=0).reshape(1, KV_HEADS, 1, SIZE)
VALUE_SCALE = np.abs(PACKED[:, (HEADS + KV_HEADS) * SIZE :]).max(axis=0).reshape(1, KV_HEADS, 1, SIZE)
IDS = RNG.integers(0, VOCABULARY, 80)


def graph_with_cache(bits: int, *, second_layer: int | None = None, logits_type: int = TensorProto.FLOAT) -> bytes:
    """The model as bytes: `input_ids` to `logits` through one GroupQueryAttention with a quantized cache.

    Args:
        second_layer: the element type of a second layer's cache, which only passes through.
    """
    largest = 2 ** (bits - 1) - 1
    cache_type = TensorProto.INT8 if bits == 8 else TensorProto.UINT8
    width = SIZE * bits // 8
    nodes = [
        helper.make_node("Gather", ["packed", "input_ids"], ["qkv"]),
        helper.make_node("ReduceSum", ["attention_mask", "one"], ["lengths"], keepdims=0),
        helper.make_node("Sub", ["lengths", "one"], ["ends"]),
        helper.make_node("Cast", ["ends"], ["seqlens_k"], to=TensorProto.INT32),
        helper.make_node("Shape", ["attention_mask"], ["mask_shape"]),
        helper.make_node("Gather", ["mask_shape", "index"], ["total"]),
        helper.make_node("Cast", ["total"], ["total_length"], to=TensorProto.INT32),
        helper.make_node(
            "GroupQueryAttention",
            [
                *("qkv", "", "", "past_key_values.0.key", "past_key_values.0.value", "seqlens_k", "total_length"),
                *("", "", "", "", "", "key_scale", "value_scale"),
            ],
            ["attention", "present.0.key", "present.0.value"],
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
            k_quant_type="PER_CHANNEL",
            v_quant_type="PER_CHANNEL",
            kv_cache_bit_width=bits,
        ),
        helper.make_node("MatMul", ["attention", "head"], ["product"]),
        helper.make_node("Cast", ["product"], ["logits"], to=logits_type),
    ]
    tensors = {
        "packed": PACKED,
        "head": HEAD,
        "key_scale": KEY_SCALE / np.float32(largest),
        "value_scale": VALUE_SCALE / np.float32(largest),
        "one": np.array([1], np.int64),
        "index": np.array(1, np.int64),
    }

    def value(name: str, element: int, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, element, shape)

    caches = [(0, cache_type)] + ([] if second_layer is None else [(1, second_layer)])
    pasts, presents = (
        [
            value(f"{name}.{layer}.{kind}", element, "batch", KV_HEADS, f"{name}_length", width)
            for layer, element in caches
            for kind in ("key", "value")
        ]
        for name in ("past_key_values", "present")
    )
    nodes += [helper.make_node("Identity", [past.name], [present.name])
              for past, present in list(zip(pasts, presents, strict=True))[2:]]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "one_layer",
        [value(name, TensorProto.INT64, "batch", name) for name in ("input_ids", "attention_mask")] + pasts,
        [value("logits", logits_type, "batch", "sequence", VOCABULARY), *presents],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString())


def expected_logits(ids: np.ndarray, bits: int) -> np.ndarray:
    """Logits [sequence, vocabulary] of exact attention over rounded keys and values, in float64."""
    largest = 2 ** (bits - 1) - 1
    packed = PACKED[ids].astype(np.float64).reshape(len(ids), HEADS + 2 * KV_HEADS, SIZE).swapaxes(0, 1)
    queries, keys, values = packed[:HEADS], packed[HEADS : HEADS + KV_HEADS], packed[HEADS + KV_HEADS :]
    keys, values = (
        np.clip(np.round(array / (scale[0] / largest)), -largest - 1, largest) * (scale[0] / largest)
        for array, scale in ((keys, KEY_SCALE.astype(np.float64)), (values, VALUE_SCALE.astype(np.float64)))
    )
    outputs = []
    for head in range(HEADS):
        scores = queries[head] @ keys[head // GROUP].T / np.sqrt(SIZE)
        scores[np.triu_indices(len(ids), 1)] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        outputs.append(weights / weights.sum(axis=-1, keepdims=True) @ values[head // GROUP])
    return np.concatenate(outputs, axis=-1) @ HEAD.astype(np.float64)


@pytest.fixture(scope="module", params=[8, 4])
def bits(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def session(bits: int) -> Session:
    return Session.open(graph_with_cache(bits), SessionSettings(threads=1))


def test_the_layout_is_the_graphs(session, bits):
    assert session.spec.layout == CacheLayout(
        ((KV_HEADS, SIZE * bits // 8),), np.dtype(np.int8 if bits == 8 else np.uint8)
    )
    full = CacheLayout(((KV_HEADS, SIZE),), np.dtype(np.float32))
    assert session.spec.layout.bytes_per_token() == full.bytes_per_token() * bits // 32
    assert session.spec.logits_dtype == np.float32


@pytest.mark.parametrize("shared", [True, False])
def test_chunks_and_single_steps_across_a_growth_agree_with_numpy(bits, shared):
    session = Session.open(
        graph_with_cache(bits), SessionSettings(threads=1), record=GraphRecord(shares_cache_buffer=shared)
    )
    expected = expected_logits(IDS, bits)
    with session.new_cache(capacity=1, limit=CONTEXT) as cache:
        found = [session.step(IDS[None, :20], cache, keep=0)[0], session.step(IDS[None, 20:50], cache, keep=0)[0]]
        found += [session.step(IDS[None, place : place + 1], cache)[0].copy() for place in range(50, len(IDS))]
        assert cache.length == len(IDS)
    difference = np.abs(np.concatenate(found) - expected)
    assert difference.max() < 1e-4 * expected.std()


def test_a_ragged_batch_agrees_with_rows_alone(session, bits):
    rows = [IDS[:7], IDS[10:41]]
    with session.new_cache(batch=2, capacity=64, limit=CONTEXT) as cache:
        for index, row in enumerate(rows):
            session.step(row[None], cache.row(index))
        together = session.step(np.array([[3], [11]]), cache).copy()
    for index, (row, token) in enumerate(zip(rows, (3, 11), strict=True)):
        expected = expected_logits(np.append(row, token), bits)[-1]
        np.testing.assert_allclose(together[index, 0], expected, atol=1e-4 * expected.std())


def test_a_cut_back_cache_goes_on_from_there(session):
    with session.new_cache(capacity=64, limit=CONTEXT) as cache:
        session.step(IDS[None, :30], cache)
        first = session.step(IDS[None, 30:31], cache).copy()
        session.step(IDS[None, 40:41], cache)
        cache.truncate(30)
        with cache.copy() as twin:
            np.testing.assert_array_equal(session.step(IDS[None, 30:31], twin), first)
        np.testing.assert_array_equal(session.step(IDS[None, 30:31], cache), first)


def test_caches_of_two_types_are_refused():
    with pytest.raises(BundleError, match=r"caches are tensor\(float\) and tensor\(int8\): expected one type"):
        Session.open(graph_with_cache(8, second_layer=TensorProto.FLOAT))


def test_logits_that_are_no_floats_are_refused():
    with pytest.raises(BundleError, match=r"logits are tensor\(int32\): expected one of"):
        Session.open(graph_with_cache(8, logits_type=TensorProto.INT32))


def test_a_file_with_a_quantized_cache_opens_too(tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(graph_with_cache(8))
    with Session.open(path).new_cache(limit=CONTEXT) as cache:
        assert {buffer.dtype for buffer in cache.buffers} == {np.dtype(np.int8)}
