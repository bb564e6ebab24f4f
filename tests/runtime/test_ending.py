"""What ends a generation: tokens, texts, limits, time, callbacks, other threads, and the context's end."""

import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from onnxgpt.runtime.errors import OptionError
from onnxgpt.runtime.stopping import Cancellation

CHECKPOINT = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint"
PROMPT = "Once upon a time there was a"
LONG = "The king's daughter went into the forest, and there she met an old woman who asked her for bread. " * 30
GREEDY = {"do_sample": False, "eos_token_id": []}


@pytest.fixture(scope="module")
def judge():
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()


def test_stop_tokens_end_without_replacing_the_end_of_text(fairytale):
    (free,) = fairytale.generate(PROMPT, max_new_tokens=20, **GREEDY)
    stop = free.token_ids[6]
    first = free.token_ids.index(stop)
    (stopped,) = fairytale.generate(PROMPT, max_new_tokens=20, do_sample=False, stop_token_ids=[stop])
    assert stopped.finish_reason == "stop_token"
    assert stopped.token_ids == free.token_ids[: first + 1]
    assert stopped.text == fairytale.tokenizer.decode(free.token_ids[:first])
    (both,) = fairytale.generate(PROMPT, max_new_tokens=20, do_sample=False, stop_token_ids=stop, eos_token_id=stop)
    assert both.finish_reason == "eos"


def test_a_time_limit_ends_every_row(fairytale):
    started = time.monotonic()
    completions = fairytale.generate([PROMPT, "x", LONG[:500]], max_time=0.2, max_new_tokens=400, min_p=0.01, seed=1,
                                     context_end="slide", max_length=None, eos_token_id=[])  # fmt: skip
    # Far less than 400 steps of three rows; the bound is wide, since the machine may be busy.
    assert time.monotonic() - started < 20
    assert {completion.finish_reason for completion in completions} <= {"time", "length"}


def test_no_time_at_all_gives_no_tokens(fairytale):
    (completion,) = fairytale.generate(PROMPT, max_time=1e-9, **GREEDY)
    assert (completion.finish_reason, completion.token_ids, completion.text) == ("time", (), "")
    assert list(fairytale.stream(PROMPT, max_time=1e-9, **GREEDY)) == []


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "soon"])
def test_no_time_limits(fairytale, seconds):
    with pytest.raises(OptionError, match=r"max_time is .*: expected a number above 0"):
        fairytale.generate(PROMPT, max_time=seconds)


def test_another_thread_cancels(fairytale):
    cancellation = Cancellation()
    begun = threading.Event()

    def on_token(_):
        begun.set()
        time.sleep(0.001)

    results = []
    worker = threading.Thread(
        target=lambda: results.extend(
            fairytale.generate(
                [PROMPT, "x"], on_token=on_token, cancellation=cancellation, max_new_tokens=100_000,
                context_end="slide", **GREEDY,
            )
        )
    )  # fmt: skip
    worker.start()
    assert begun.wait(30)
    cancellation.cancel()
    worker.join(30)
    assert not worker.is_alive()
    assert [result.finish_reason for result in results] == ["cancelled"] * 2
    assert results[0].text == fairytale.tokenizer.decode(results[0].token_ids)
    assert results[0].completion_tokens > 0


def test_what_is_cancelled_before_it_begins_gives_nothing(fairytale):
    cancellation = Cancellation()
    cancellation.cancel()
    cancellation.cancel()
    completions = fairytale.generate([PROMPT, "x"], cancellation=cancellation, **GREEDY)
    assert [(each.finish_reason, each.completion_tokens) for each in completions] == [("cancelled", 0)] * 2


def test_a_cancelled_stream_tells_so_with_its_last_token(fairytale):
    (whole,) = fairytale.generate(PROMPT, max_new_tokens=60, **GREEDY)
    stream = fairytale.stream(PROMPT, max_new_tokens=60, **GREEDY)
    tokens = []
    for token in stream:
        tokens.append(token)
        if len(tokens) == 10:
            threading.Thread(target=stream.cancel).start()
    assert tokens[-1].finish_reason in ("cancelled", "length")
    assert 10 < len(tokens) <= 60
    assert whole.text.startswith("".join(token.text for token in tokens))
    (cancelled,) = stream.completions()
    assert cancelled.finish_reason == tokens[-1].finish_reason


def test_a_stream_may_be_closed_by_another_thread_while_it_runs(fairytale):
    for _ in range(5):
        stream = fairytale.stream(PROMPT, max_new_tokens=100_000, context_end="slide", **GREEDY)
        for count, _token in enumerate(stream):
            if count == 5:
                closer = threading.Thread(target=stream.close)
                closer.start()
        closer.join(30)
        assert stream.completions()[0].finish_reason == "cancelled"
        assert list(stream) == []


def test_a_callback_sees_every_token_and_ends_its_row_alone(fairytale):
    options = {"max_new_tokens": 20, "seed": 3, "eos_token_id": []}
    whole = fairytale.generate([PROMPT, "x", "The king"], **options)
    seen = []

    def on_token(token):
        seen.append(token)
        return token.row == 1 and sum(other.row == 1 for other in seen) == 7

    completions = fairytale.generate([PROMPT, "x", "The king"], on_token=on_token, **options)
    assert [completion.finish_reason for completion in completions] == ["length", "callback", "length"]
    assert completions[1].token_ids == whole[1].token_ids[:7]
    assert completions[1].text == fairytale.tokenizer.decode(whole[1].token_ids[:7])
    for index in (0, 2):
        assert completions[index].token_ids == whole[index].token_ids
        assert "".join(token.text for token in seen if token.row == index) == whole[index].text


def test_only_true_from_a_callback_ends(fairytale):
    (completion,) = fairytale.generate(PROMPT, on_token=lambda token: token.id + 1, max_new_tokens=5, **GREEDY)
    assert completion.finish_reason == "length"


def slide_by_definition(judge, ids, count, context, keep):
    """Greedy tokens, each from PyTorch's logits of the window that `context_end` defines, read anew."""
    window, tokens = list(ids), []
    kept = min(keep, len(ids), context - 2)
    for _ in range(count):
        if len(window) > context:
            window = window[:kept] + window[kept + max(2, (context - kept) // 2) :]
        with torch.no_grad():
            tokens.append(int(judge(torch.tensor([window])).logits[0, -1].argmax()))
        window.append(tokens[-1])
    return tokens


@pytest.mark.parametrize(
    ("keep", "prompt", "count"), [(0, 505, 30), (480, 500, 40), (3, 511, 12), (600, 508, 12), (511, 511, 5)]
)
def test_a_sliding_context_is_what_pytorch_reads_from_its_window(fairytale, judge, keep, prompt, count):
    ids = fairytale.tokenizer.encode(LONG)[:prompt]
    options = {"max_new_tokens": count, "context_end": "slide", "context_keep": keep, **GREEDY}
    (completion,) = fairytale.generate(ids, **options)
    expected = slide_by_definition(judge, ids, count, 512, keep)
    assert list(completion.token_ids) == expected
    assert completion.finish_reason == "length"
    batch = fairytale.generate(["x", ids, ids[:490]], **options)
    assert list(batch[1].token_ids) == expected
    assert batch[0].token_ids == fairytale.generate("x", **options)[0].token_ids


def test_what_can_have_no_effect_at_the_context_s_end_is_refused(fairytale):
    with pytest.raises(OptionError, match='context_keep has no effect without context_end="slide"'):
        fairytale.generate(PROMPT, context_keep=5)
    with pytest.raises(OptionError, match="context_end is 'roll': expected one of stop, slide"):
        fairytale.generate(PROMPT, context_end="roll")
