"""Batches: every row gets what it would get alone, whatever comes and goes beside it."""

import gc

import numpy as np
import pytest

import onnxgpt
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.errors import MemoryLimitError
from onnxgpt.runtime.manifest import GraphRecord
from onnxgpt.runtime.model import Model
from onnxgpt.runtime.session import Session
from onnxgpt.runtime.settings import SessionSettings

PROMPTS = [
    "Once upon a time there was a",
    "x",
    "The king's daughter went into the forest, and there she met an old woman who asked her for bread. " * 8,
    "'What do you want?' said the wolf.",
    "The king's daughter",
    "And when they came",
    "One morning, very early, before it was quite light, the miller's youngest son got up and",
    "The",
]
# The tokens "," and "." end a row, so that rows leave at different times.
ENDS_EARLY = {"eos_token_id": [12, 14]}


@pytest.fixture(scope="module", params=["shared buffer", "separate past and present", "standard operators"])
def model(request, full_bundle, tmp_path_factory):
    """The fairy-tale model with each kind of cache; graphs of the standard operators never share buffers."""
    if request.param == "standard operators":
        from onnxgpt.export import export_bundle

        source = full_bundle.directory.parent / "source" / "fairytale"
        out = tmp_path_factory.mktemp("standard") / "fairytale"
        return onnxgpt.load(export_bundle(source, out, operators="standard").directory, threads=2)
    loaded = onnxgpt.load(full_bundle.directory, threads=2)
    if request.param == "separate past and present":
        session = Session.open(
            full_bundle.graph_path, SessionSettings(threads=2), record=GraphRecord(shares_cache_buffer=False)
        )
        return Model(full_bundle, session, loaded.tokenizer)
    return loaded


def assert_same(batch, alone):
    for ours, theirs in zip(batch, alone, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.text == theirs.text
        assert ours.finish_reason == theirs.finish_reason
        assert ours.prompt_tokens == theirs.prompt_tokens
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False, "max_new_tokens": 40},
        {"do_sample": False, "max_new_tokens": 40, **ENDS_EARLY},
        {"seed": 3, "max_new_tokens": 40, "repetition_penalty": 1.2, **ENDS_EARLY},
        {"seed": 5, "max_new_tokens": 30, "stop_strings": ["the ", "e"]},
        {"do_sample": False, "max_length": 230, **ENDS_EARLY},
    ],
)
@pytest.mark.parametrize("batch_size", [None, 3])
def test_rows_equal_single_runs(model, options, batch_size):
    batch = model.generate(PROMPTS, batch_size=batch_size, **options)
    assert_same(batch, [model.generate(prompt, **options)[0] for prompt in PROMPTS])
    assert [completion.prompt_index for completion in batch] == list(range(8))
    if "eos_token_id" in options:
        assert len({completion.completion_tokens for completion in batch}) > 3


@pytest.mark.parametrize("options", [{"seed": 3}, {"do_sample": False}, {"seed": 3, "context_end": "slide"}])
def test_rows_of_an_8_bit_model_do_not_depend_on_their_neighbours(options):
    model = onnxgpt.load("fairytale", threads=2)  # whose kernels compute a last odd row otherwise than two rows
    options = options | ENDS_EARLY | {"max_new_tokens": 60}
    together = model.generate(PROMPTS, batch_size=8, **options)
    assert_same(model.generate(PROMPTS, batch_size=3, **options), together)
    assert_same(model.generate(PROMPTS[1:], **options), together[1:])
    for prompt, same in zip(PROMPTS, together, strict=True):
        assert_same(model.generate(prompt, batch_size=2, **options), [same])
    alone = [model.generate(prompt, **options)[0] for prompt in PROMPTS]
    assert_same(model.generate(PROMPTS, batch_size=1, **options), alone)


def test_sequences_of_a_prompt_equal_single_runs(model):
    options = {"seed": 4, "max_new_tokens": 12, "num_return_sequences": 3}
    batch = model.generate(PROMPTS[:4], **options)
    assert_same(batch, [completion for prompt in PROMPTS[:4] for completion in model.generate(prompt, **options)])
    assert [(each.prompt_index, each.sequence_index) for each in batch] == [(p, s) for p in range(4) for s in range(3)]
    assert len({each.text for each in batch}) == 12
    assert_same(model.generate(PROMPTS[:4], batch_size=2, **options), batch)


def test_prompts_of_ids_and_texts_go_together(model):
    ids = model.tokenizer.encode(PROMPTS[1])
    batch = model.generate([PROMPTS[0], ids, np.array(ids)], do_sample=False, max_new_tokens=5)
    assert batch[1].token_ids == batch[2].token_ids
    rows = model.generate(np.array([ids, ids]), do_sample=False, max_new_tokens=5)
    assert [row.token_ids for row in rows] == [batch[1].token_ids] * 2
    assert len(model.generate([PROMPTS[0]], do_sample=False, max_new_tokens=5)) == 1


def test_streams_tell_the_row(model):
    options = {"seed": 2, "max_new_tokens": 25, "num_return_sequences": 2, "stop_strings": ["th"], **ENDS_EARLY}
    whole = model.generate(PROMPTS[:3], **options)
    with model.stream(PROMPTS[:3], **options) as stream:
        tokens = list(stream)
    for index, completion in enumerate(whole):
        mine = [token for token in tokens if token.row == index]
        assert "".join(token.text for token in mine) == completion.text
        assert tuple(token.id for token in mine) == completion.token_ids
        assert [token.finish_reason for token in mine] == [None] * (len(mine) - 1) + [completion.finish_reason]
    assert_same(stream.completions(), whole)
    assert stream.prompt_tokens == sum(len(model.tokenizer.encode(prompt)) for prompt in PROMPTS[:3])


def test_sequences_share_one_prefill(fairytale, monkeypatch):
    read = []
    step = fairytale.session.step
    monkeypatch.setattr(
        fairytale.session, "step", lambda ids, cache, keep=1: read.append(ids.shape) or step(ids, cache, keep)
    )
    fairytale.generate(PROMPTS[6], seed=1, max_new_tokens=4, num_return_sequences=5)
    length = len(fairytale.tokenizer.encode(PROMPTS[6]))
    assert read == [(1, length), (6, 1), (6, 1), (6, 1)]  # an even number: see Batch


def test_rows_that_end_leave_the_batch(fairytale, monkeypatch):
    widths = []
    step = fairytale.session.step
    monkeypatch.setattr(
        fairytale.session, "step", lambda ids, cache, keep=1: widths.append(len(ids)) or step(ids, cache, keep)
    )
    lengths = [
        row.completion_tokens for row in fairytale.generate(PROMPTS, do_sample=False, max_new_tokens=40, **ENDS_EARLY)
    ]
    steps = widths[len(PROMPTS) :]  # behind the prompts, all short enough for one chunk
    left = [sum(length > index for length in lengths) for index in range(1, max(lengths))]
    assert left[-1] < left[0]
    assert steps == [count + count % 2 for count in left]  # an even number: see Batch


def test_memory_is_counted_for_all_rows_before_it_is_allocated(full_bundle):
    weights = Bundle.open(full_bundle.directory).weight_bytes
    per_token = 12_288
    model = onnxgpt.load(full_bundle.directory, threads=2, memory_limit=weights + 4 * 60 * per_token)
    options = {"do_sample": False, "max_length": 60}
    assert len(model.generate(["x"] * 4, **options)) == 4
    with pytest.raises(
        MemoryLimitError, match=r"6 rows of 60 tokens need .* the largest context that fits has 40 tokens"
    ):
        model.generate(["x"] * 5, **options)  # an even number of rows: see Batch
    assert model.session.budget.used == weights
    assert len(model.generate(["x"] * 5, batch_size=3, **options)) == 5
    stream = model.stream(["x"] * 3, **options)
    next(stream)
    assert model.session.budget.used == weights + 4 * 60 * per_token
    stream.close()
    assert model.session.budget.used == weights
    for _ in model.stream(["x"] * 3, **options):
        break
    gc.collect()
    assert model.session.budget.used == weights
