"""Steps on a device, which here is ONNX Runtime's own "cpu", against steps in arrays: the same bits, the same texts.

"addressed" is how CUDA's memory is used, "tensors" how DirectML's is: there each row is stepped for itself, so it is
compared to rows that are computed alone.
"""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxgpt.graphs.choices import add_choices
from onnxgpt.runtime.device_store import DeviceStore
from onnxgpt.runtime.model import Model
from onnxgpt.runtime.opening import Place
from onnxgpt.runtime.session import Session

from .device_sessions import model_on_device, on_device

ADDRESSED, TENSORS = True, False
KINDS = pytest.mark.parametrize("is_addressable", [ADDRESSED, TENSORS], ids=["addressed", "tensors"])
ROWS = [[5, 9, 300, 41, 7, 8, 100], [77], [12, 13, 14, 15]]


@pytest.fixture(scope="module", params=["fairytale", "tiny_llama"])
def model(request: pytest.FixtureRequest) -> Model:
    """In float32: learned positions and rotary ones."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def choosing(full_bundle: Any) -> Session:
    """The fairy-tale model's graph with the outputs that choose tokens."""
    graph = ir.load(full_bundle.graph_path)
    assert add_choices(graph)
    content = ir.to_proto(graph).SerializeToString()
    return Session.open(content, weights_directory=full_bundle.directory, context_length=256)


def fill(session: Session, cache: Any, rows: list[list[int]]) -> None:
    cache.clear()
    for ids in rows:
        session.step(np.array([ids]), cache.row(cache.add_row()))


def logits_of(session: Session, *, alone: bool, vocabulary: int) -> list[np.ndarray]:
    """Logits of ragged rows that are read, stepped, left and joined, across a growth of the cache."""
    found = []
    random = np.random.default_rng(3)
    rows = [[token % vocabulary for token in row] for row in ROWS]
    with session.new_cache(batch=len(rows), capacity=8) as cache:
        fill(session, cache, rows)
        for step in range(70):
            ids = random.integers(0, vocabulary, (cache.batch, 1))
            if alone:
                logits = [session.step(ids[row : row + 1], cache.row(row)).copy() for row in range(cache.batch)]
                found.append(np.concatenate(logits))
            else:
                found.append(session.step(ids, cache).copy())
            cache.ensure(cache.length + 1)
            if step == 20:
                cache.drop_row(0)
            if step == 40:
                cache.copy_row(1, cache.add_row(), 9)
    return found


@KINDS
def test_ragged_rows_give_the_same_bits(model: Model, is_addressable: bool) -> None:
    vocabulary = model.session.spec.vocab_size
    expected = logits_of(model.session, alone=not is_addressable, vocabulary=vocabulary)
    device = on_device(model.session, is_addressable=is_addressable)
    found = logits_of(device, alone=False, vocabulary=vocabulary)
    assert device.steps_rows_together == is_addressable
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_chunks_behind_a_past_give_the_same_bits(model: Model) -> None:
    ids = np.random.default_rng(4).integers(0, model.session.spec.vocab_size, (1, 50))
    found = []
    for session in (model.session, on_device(model.session)):
        with session.new_cache(capacity=8) as cache:
            whole = [session.step(ids[:, start : start + 12], cache, keep=0).copy() for start in range(0, 50, 12)]
            cache.truncate(20)
            found.append([*whole, session.step(ids[:, 20:23], cache, keep=2)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


CALLS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "seed": 5, "repetition_penalty": 1.2},
    "siblings": {"do_sample": True, "seed": 5, "num_return_sequences": 3},
    "beams": {"num_beams": 4, "do_sample": False, "num_return_sequences": 2},
    "two at a time": {"do_sample": True, "seed": 6, "batch_size": 2},
    "one at a time": {"do_sample": True, "seed": 6, "batch_size": 1},
    "past the context": {"do_sample": True, "seed": 7, "context_end": "slide", "max_new_tokens": 300},
}


@pytest.mark.parametrize("call", CALLS)
@KINDS
def test_texts_are_the_same(fairytale: Model, call: str, is_addressable: bool) -> None:
    options = {"max_new_tokens": 24, "eos_token_id": (), **CALLS[call]}
    prompts = ["Once upon a time", "A", "The old king had three sons, and the youngest"]
    if call == "past the context":
        options["batch_size"], prompts = 1, prompts[:1]
    device = model_on_device(fairytale, is_addressable=is_addressable)
    texts = [[found.token_ids for found in each.generate(prompts, **options)] for each in (fairytale, device)]
    assert texts[0] == texts[1]
    assert fairytale.session.budget.used == device.session.budget.used


@KINDS
def test_threads_share_a_device(fairytale: Model, is_addressable: bool) -> None:
    """Where a device does one thing at a time, that is of one thread: steps, copies for beams, allocations."""
    device = model_on_device(fairytale, is_addressable=is_addressable)
    calls = [{"num_beams": 3, "do_sample": False}, {"do_sample": True, "seed": 2, "num_return_sequences": 2}] * 2

    def generate(options: dict[str, Any]) -> list[tuple[int, ...]]:
        texts = device.generate("The sea was", max_new_tokens=20, eos_token_id=(), **options)
        return [found.token_ids for found in texts]

    alone = [generate(options) for options in calls]
    with ThreadPoolExecutor(len(calls)) as pool:
        assert list(pool.map(generate, calls)) == alone


def test_lookup_and_scores_are_the_same(fairytale: Model) -> None:
    device = model_on_device(fairytale)
    prompt = "the wolf and the fox and the wolf and the fox and"
    options = {"prompt_lookup_num_tokens": 4, "do_sample": False, "max_new_tokens": 40}
    texts = [each.generate(prompt, **options)[0].token_ids for each in (fairytale, device)]
    assert texts[0] == texts[1]
    scores = []
    for each in (fairytale, device):
        with each.candidate_scorer() as scorer:  # whose cache is cut back and read on
            found = [scorer.score(text, [" sat", " stood up"]) for text in ("The cat", "The cat and the dog", "A")]
        scores.append([candidate.total for each in found for candidate in each])
    assert scores[0] == scores[1]


@KINDS
def test_presents_of_their_own_stay_on_the_device(fairytale: Model, is_addressable: bool) -> None:
    """Past and present apart, which GroupQueryAttention does too; cut back on the device as well."""
    found = []
    own = fairytale.session
    host = Session(own.runs.session, own.spec, shares_cache_buffer=False, budget=own.budget, foreign=True)
    for session in (host, on_device(own, is_addressable=is_addressable, shares_cache_buffer=False)):
        assert not session.steps_rows_together
        with session.new_cache(batch=2) as cache:
            fill(session, cache, [[5, 6, 7, 8], [9]])
            logits = [session.step(np.array([[3], [4]]), cache).copy()]
            cache.truncate(3)
            cache.reorder([0, 0])
            found.append([*logits, session.step(np.array([[30], [40]]), cache)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_foreign_graphs_masks_end_with_its_rows_on_the_device_too(fairytale: Model) -> None:
    found = []
    own = fairytale.session
    host = Session(own.runs.session, own.spec, shares_cache_buffer=True, budget=own.budget, foreign=True)
    for session in (host, on_device(own, foreign=True)):
        with session.new_cache(batch=2) as cache:
            fill(session, cache, [[5, 6, 7, 8], [9]])
            found.append([session.step(np.array([[3], [4]]), cache).copy() for _ in range(70)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["arrays", "addressed", "tensors"])
def test_choices_are_those_of_the_logits(choosing: Session, kind: str) -> None:
    session = choosing if kind == "arrays" else on_device(choosing, is_addressable=kind == "addressed")
    assert session.spec.choices == 64
    random = np.random.default_rng(8)
    with session.new_cache(batch=len(ROWS), capacity=64) as cache:
        cache.clear()
        for row in ROWS:
            view = cache.row(cache.add_row())
            check(session.step_choices(np.array([row]), view), session.last_logits(view))
        for _ in range(10):
            choices = session.step_choices(random.integers(0, 500, (len(ROWS), 1)), cache)
            check(choices, session.last_logits(cache))
    assert choices.greedy.dtype == choices.ids.dtype == np.int64


def check(choices: Any, logits: np.ndarray) -> None:
    order = np.argsort(-logits, axis=1, kind="stable")[:, :64]
    np.testing.assert_array_equal(choices.greedy, order[:, 0])
    np.testing.assert_array_equal(choices.ids, order)
    np.testing.assert_array_equal(choices.logits, np.take_along_axis(logits, order, axis=1))
    np.testing.assert_allclose(choices.normalizers, np.log(np.exp(logits.astype(np.float64)).sum(axis=1)), atol=1e-5)


def test_a_graph_without_choices_is_refused_them(fairytale: Model) -> None:
    with fairytale.session.new_cache() as cache, pytest.raises(ValueError, match="no choices"):
        fairytale.session.step_choices(np.array([[1]]), cache)


@KINDS
def test_a_step_allocates_and_binds_nothing(
    choosing: Session, is_addressable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = on_device(choosing, is_addressable=is_addressable)
    ids = np.array([[3], [4]])
    with session.new_cache(batch=2, capacity=256, limit=256) as cache:
        session.step_choices(ids, cache)

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("allocated or bound again")

        monkeypatch.setattr(DeviceStore, "allocate", refuse)
        monkeypatch.setattr(type(session.runs.session), "io_binding", refuse)
        for _ in range(50):
            session.step_choices(ids, cache)
        tracemalloc.start()
        try:
            for _ in range(5):
                session.step_choices(ids, cache)
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(150):
                session.step_choices(ids, cache)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert cache.length == 206
    assert after - before < 2000  # bytes, over 150 steps


def bfloat16_graph() -> bytes:
    """Keys and values of bfloat16 [1, 1, capacity, 4] are tokens' rows of a table; logits are the sum of all so far."""
    table = np.array([[1, 2, 3, 4], [16, 0, -2, 8], [0, 1, 0, -1], [5, 5, 5, 5]], np.float32)
    constants = {"table": table, "first": np.array([1]), "zeros": np.zeros((1, 2), np.int64), "axis": np.array([2])}
    constants |= {"outer": np.array([1, 3]), "none": np.array(0, np.float32)}
    kinds = ("key", "value")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Squeeze", ["rows", "first"], ["row"]),
        helper.make_node("Cast", ["row"], ["update"], to=TensorProto.BFLOAT16),
        helper.make_node("ReduceSum", ["attention_mask", "first"], ["length"], keepdims=1),
        helper.make_node("Sub", ["length", "first"], ["place"]),
        helper.make_node("Concat", ["zeros", "place"], ["indices"], axis=1),
        *(
            helper.make_node("ScatterND", [f"past_key_values.0.{kind}", "indices", "update"], [f"present.0.{kind}"])
            for kind in kinds
        ),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.BOOL),
        helper.make_node("Unsqueeze", ["mask", "outer"], ["is_held"]),
        helper.make_node("Cast", ["present.0.value"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Where", ["is_held", "values", "none"], ["held"]),
        helper.make_node("ReduceSum", ["held", "axis"], ["logits"], keepdims=0),
    ]
    shape = [1, 1, "capacity", 4]
    pasts = [helper.make_tensor_value_info(f"past_key_values.0.{kind}", TensorProto.BFLOAT16, shape) for kind in kinds]
    presents = [helper.make_tensor_value_info(f"present.0.{kind}", TensorProto.BFLOAT16, shape) for kind in kinds]
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, [1, name]) for name in names]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, 4])
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "sums", [*inputs, *pasts], [logits, *presents], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("kind", ["arrays", "addressed", "tensors"])
def test_a_bfloat16_cache_that_numpy_has_no_type_for(kind: str) -> None:
    session = Session.open(bfloat16_graph(), context_length=200)
    assert session.spec.layout.bytes_per_token() == 2 * 4 * 2
    if kind != "arrays":
        session = on_device(session, is_addressable=kind == "addressed")
    with session.new_cache(capacity=100, limit=100) as cache:
        sums = [session.step(np.array([[token]]), cache)[0, 0].tolist() for token in (0, 1, 2, 3, 3)]
        cache.truncate(1)
        with cache.copy() as twin:
            sums.append(session.step(np.array([[1]]), twin)[0, 0].tolist())
    assert sums == [[1, 2, 3, 4], [17, 2, 1, 12], [17, 3, 1, 11], [22, 8, 6, 16], [27, 13, 11, 21], [17, 2, 1, 12]]


class Heard:
    """ONNX Runtime's session, noting what its runs are told of recordings, and which of those are let go."""

    def __init__(self, session: Any):
        self._session = session
        self.runs: list[str] = []
        self.released: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        self.runs.append("" if options is None else options.get_run_config_entry("gpu_graph_id"))
        self._session.run_with_iobinding(binding, options)

    def release_captured_graph(self, number: int) -> None:
        self.released.append(number)
        self._session.release_captured_graph(number)


def test_steps_are_recorded_for_each_lane_and_nothing_else_is(fairytale: Model) -> None:
    heard = Heard(fairytale.session.runs.session)
    session = on_device(fairytale.session, ort_session=heard, place=Place(cuda_graph=True))
    with session.new_cache(batch=2, limit=64) as cache:
        fill(session, cache, [[1, 2, 3], [4]])  # several tokens, and one in a view: both unrecorded
        for _ in range(3):
            session.step(np.array([[5], [6]]), cache)
        cache.drop_row(0)
        session.step(np.array([[7]]), cache)
        cache.add_row()
        session.step(np.array([[8], [9]]), cache)  # two rows again: what was recorded for them serves
        assert heard.runs == ["-1", "-1", "1", "1", "1", "2", "1"]
        assert heard.released == []
    assert sorted(heard.released) == [1, 2]
    with session.new_cache(limit=64) as cache:
        session.step(np.array([[7]]), cache)
    assert heard.runs[-1] == "3"
    assert heard.released[-1] == 3


def test_a_cache_that_grows_lets_its_recordings_go(fairytale: Model) -> None:
    heard = Heard(fairytale.session.runs.session)
    session = on_device(fairytale.session, ort_session=heard, place=Place(cuda_graph=True))
    with session.new_cache(capacity=64) as cache:
        for _ in range(66):
            session.step(np.array([[7]]), cache)
        assert heard.runs == ["1"] * 64 + ["2"] * 2
        assert heard.released == [1]


def test_without_recordings_runs_are_told_nothing(fairytale: Model) -> None:
    heard = Heard(fairytale.session.runs.session)
    session = on_device(fairytale.session, ort_session=heard)
    with session.new_cache() as cache:
        session.step(np.array([[7, 8]]), cache)
        session.step(np.array([[7]]), cache)
    assert heard.runs == ["", ""]
    assert heard.released == []
