"""A row by itself, driven as a loop or a speculation drives it: token by token, by hand."""

import pytest

from onnxgpt.runtime.config import GenerationConfig
from onnxgpt.runtime.results import RankedToken
from onnxgpt.runtime.row import Row
from onnxgpt.runtime.sampling import Sampler
from onnxgpt.runtime.stopping import Cancellation, Interruption
from onnxgpt.runtime.tokenizer import StreamDecoder


def make_row(prompt, tokenizer=None, *, cancellation=None, limit=1000, **options):
    return Row(
        prompt,
        GenerationConfig(**options),
        limit=limit,
        sampler=Sampler(is_greedy=True, seed=0, sequence=1),
        interruption=Interruption(cancellation or Cancellation()),
        decoder=None if tokenizer is None else StreamDecoder(tokenizer, context=prompt),
        prompt_index=2,
    )


def test_tokens_are_kept_however_many_come():
    row = make_row([7, 8])
    for token in range(600):
        assert row.take(token, -1.0).finish_reason is None
    assert row.token_ids.tolist() == [7, 8, *range(600)]
    assert (row.new_tokens, row.last_token, row.prompt_length) == (600, 599, 2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"eos_token_id": 5}, "eos"),
        ({"stop_token_ids": 5}, "stop_token"),
        ({"eos_token_id": 5, "stop_token_ids": 5, "limit": 3}, "eos"),
        ({"limit": 3}, "length"),
    ],
)
def test_the_reason_to_end_comes_with_the_token_that_ends(options, reason):
    row = make_row([7], **options)
    assert [row.take(token, -0.5).finish_reason for token in (3, 4, 5)] == [None, None, reason]
    row.end("cancelled")
    assert row.finish_reason == reason


def test_a_cancelled_row_ends_with_its_next_token():
    cancellation = Cancellation()
    row = make_row([7], cancellation=cancellation)
    assert row.take(3, -0.5).finish_reason is None
    cancellation.cancel()
    assert row.take(4, -0.5).finish_reason == "cancelled"


def test_events_tell_their_row_and_what_was_measured():
    row = make_row([7], num_return_sequences=3, do_sample=True)
    top = (RankedToken(3, -0.5), RankedToken(9, -1.5))
    event = row.take(3, -0.5, top)
    assert (event.id, event.logprob, event.top, event.row, event.text) == (3, -0.5, top, 7, "")
    completion = row.completion(seed=4)
    assert (completion.prompt_index, completion.sequence_index, completion.seed) == (2, 1, 4)
    assert completion.top_logprobs == (top,)


def test_text_that_may_become_a_stop_string_comes_when_the_row_ends(fairytale):
    ids = fairytale.tokenizer.encode(" the wolf and the")
    row = make_row([7], fairytale.tokenizer, stop_strings=["the end"], limit=len(ids))
    events = [row.take(token, -1.0) for token in ids]
    assert events[-2].text == " and"
    assert events[-1].text.endswith("the")
    assert "".join(event.text for event in events) == row.completion(None).text == " the wolf and the"
    ended = make_row([7], fairytale.tokenizer, stop_strings=["the end"])
    for token in ids:
        ended.take(token, -1.0)
    ended.end("callback")
    assert ended.completion(None).text == " the wolf and the"


@pytest.mark.parametrize("kept", [0, 3, 5, 900])
def test_a_window_that_slides_keeps_its_beginning_and_the_newest_half(kept):
    row = make_row(range(5))
    for token in range(5, 101):
        row.take(token, -1.0)
    window, found = row.slide(kept, 100)
    assert found == min(kept, 5)
    dropped = (100 - found) // 2
    assert window.tolist() == [*range(found), *range(found + dropped, 101)]
    assert row.token_ids.tolist() == list(range(101))


def test_a_window_that_is_kept_almost_whole_drops_two_tokens():
    row = make_row(range(99))
    row.take(99, -1.0)
    row.take(100, -1.0)
    window, found = row.slide(99, 100)
    assert (found, window.tolist()) == (98, [*range(98), 100])
