"""The Model on the embedded bundle, with transformers on the same checkpoint as the judge."""

import gc
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import onnxgpt
from onnxgpt.runtime.errors import MemoryLimitError, OptionError, PromptError

CHECKPOINT = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint"
PROMPT = "Once upon a time there was a"
TALE = "The king's daughter went into the forest, and there she met an old woman who asked her for bread. " * 12


@pytest.fixture(scope="module")
def judge():
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()


def greedy(judge, ids, count):
    output = judge.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False, eos_token_id=-1, pad_token_id=0)
    return output[0, len(ids) :].tolist()


@pytest.mark.parametrize("text", [PROMPT, "x", TALE[:900]])
def test_greedy_text_equals_transformers(fairytale, judge, text):
    ids = fairytale.tokenizer.encode(text)
    (completion,) = fairytale.generate(text, do_sample=False, max_new_tokens=128, eos_token_id=[])
    assert list(completion.token_ids) == greedy(judge, ids, 128)
    assert completion.finish_reason == "length"
    assert (completion.prompt_tokens, completion.completion_tokens, completion.seed) == (len(ids), 128, None)


def test_logits_and_scores_equal_transformers(fairytale, judge):
    ids = fairytale.tokenizer.encode(TALE)
    assert len(ids) > 256  # more than one chunk
    with torch.no_grad():
        theirs = torch.log_softmax(judge(torch.tensor([ids])).logits[0], -1).numpy()
    ours = fairytale.logits(ids)
    assert ours.dtype == np.float32
    assert ours.shape == (len(ids), 4096)
    ours = ours - np.logaddexp.reduce(ours.astype(np.float64), axis=-1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    score = fairytale.score(TALE)
    assert score.token_ids == tuple(ids)
    expected = theirs[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(score.logprobs, expected, atol=1e-3)
    assert score.total == pytest.approx(expected.sum(), abs=0.01)
    assert score.perplexity == pytest.approx(np.exp(-expected.mean()), rel=1e-4)


def test_logprobs_are_the_model_s_own(fairytale):
    (completion,) = fairytale.generate(PROMPT, seed=3, temperature=1.7, max_new_tokens=20)
    ids = fairytale.tokenizer.encode(PROMPT)
    score = fairytale.score([*ids, *completion.token_ids])
    np.testing.assert_allclose(completion.logprobs, score.logprobs[len(ids) - 1 :], atol=1e-3)


def test_the_bundle_s_defaults_hold(fairytale):
    first = fairytale.generate(PROMPT, seed=7)[0]
    again = fairytale.generate(PROMPT, seed=7, do_sample=True, temperature=0.8, top_k=40, max_new_tokens=200)[0]
    assert first.token_ids == again.token_ids
    assert fairytale.generate(PROMPT, seed=8)[0].token_ids != first.token_ids


def test_a_drawn_seed_repeats_the_text(fairytale):
    first = fairytale.generate(PROMPT, max_new_tokens=30)[0]
    assert first.seed is not None
    assert fairytale.generate(PROMPT, max_new_tokens=30, seed=first.seed)[0].text == first.text


@pytest.mark.parametrize("options", [{"seed": 5}, {"seed": 5, "stop_strings": ["the "]}, {"do_sample": False}])
def test_stream_equals_generate(fairytale, options):
    (whole,) = fairytale.generate(PROMPT, max_new_tokens=60, **options)
    stream = fairytale.stream(PROMPT, max_new_tokens=60, **options)
    tokens = list(stream)
    assert "".join(token.text for token in tokens) == whole.text
    assert tuple(token.id for token in tokens) == whole.token_ids
    assert [token.finish_reason for token in tokens[:-1]] == [None] * (len(tokens) - 1)
    assert tokens[-1].finish_reason == whole.finish_reason
    assert stream.seed == whole.seed


def test_text_is_the_tokens_text(fairytale):
    (completion,) = fairytale.generate(PROMPT, seed=5, max_new_tokens=60)
    assert completion.text == fairytale.tokenizer.decode(completion.token_ids)


def test_stop_strings_end_the_text_before_them(fairytale):
    free = fairytale.generate(PROMPT, seed=5, max_new_tokens=60)[0].text
    stop = free[30:36]
    stopped = fairytale.generate(PROMPT, seed=5, max_new_tokens=60, stop_strings=[stop])[0]
    assert stopped.text == free[: free.index(stop)]
    assert stopped.finish_reason == "stop"


def test_end_of_text_ends(fairytale):
    free = fairytale.generate(PROMPT, do_sample=False, max_new_tokens=20)[0]
    end = free.token_ids[6]
    first = free.token_ids.index(end)
    ended = fairytale.generate(PROMPT, do_sample=False, max_new_tokens=20, eos_token_id=end)[0]
    assert ended.finish_reason == "eos"
    assert ended.token_ids == free.token_ids[: first + 1]
    assert ended.text == fairytale.tokenizer.decode(free.token_ids[:first])


def test_max_length_counts_the_prompt(fairytale):
    ids = fairytale.tokenizer.encode(PROMPT)
    completion = fairytale.generate(ids, max_length=len(ids) + 5, do_sample=False)[0]
    assert completion.completion_tokens == 5


def test_generation_ends_with_the_context(fairytale, judge):
    ids = fairytale.tokenizer.encode(TALE * 3)[:500]
    completion = fairytale.generate(ids, do_sample=False, eos_token_id=[], max_new_tokens=100)[0]
    assert completion.finish_reason == "context"
    assert list(completion.token_ids) == greedy(judge, ids, 12)


def test_sequences_differ_and_the_first_is_the_single_one(fairytale):
    three = fairytale.generate(PROMPT, seed=4, max_new_tokens=15, num_return_sequences=3)
    assert len({completion.text for completion in three}) == 3
    assert three[0].text == fairytale.generate(PROMPT, seed=4, max_new_tokens=15)[0].text


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ([], "the prompt is empty"),
        ([1.5], "expected one text or one list of token ids"),
        ([[[1, 2]]], "2 dimensions"),
        ([[[1, 2], [3]]], "ragged"),
        (["a text", ""], "prompt 1: the prompt is empty"),
        ([[5], [4096]], "prompt 1: token id 4096 is not in the vocabulary"),
        ([[5], [5] * 512], "prompt 1 has 512 tokens and the context 512"),
        ([-1], "token id -1 is not in the vocabulary"),
        ([4096], "token id 4096 is not in the vocabulary: expected 0 to 4095"),
        ([5] * 512, "the prompt has 512 tokens and the context 512"),
        ([5] * 513, "the prompt has 513 tokens and the context 512"),
    ],
)
def test_bad_prompts_are_refused(fairytale, prompt, message):
    with pytest.raises(PromptError, match=message):
        fairytale.generate(prompt)
    with pytest.raises(PromptError, match=message):
        fairytale.stream(prompt)  # when asked, not at the first token


def test_bad_options_are_refused_when_asked(fairytale):
    with pytest.raises(OptionError, match="unknown option 'beams'"):
        fairytale.stream(PROMPT, beams=4)
    with pytest.raises(OptionError, match="batch_size is 0: expected 1 or more"):
        fairytale.stream(PROMPT, batch_size=0)
    with pytest.raises(PromptError, match="the text has one token"):
        fairytale.score([5])


def test_threads_give_the_texts_they_give_alone(fairytale):
    alone = [fairytale.generate(PROMPT, seed=seed, max_new_tokens=80)[0].text for seed in range(4)]
    together: dict[int, str] = {}

    def work(seed):
        together[seed] = fairytale.generate(PROMPT, seed=seed, max_new_tokens=80)[0].text

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [together[seed] for seed in range(4)] == alone


def test_a_cancelled_stream_frees_its_cache():
    model = onnxgpt.load("fairytale", memory_limit="500MB")
    weights = model.session.budget.used
    stream = model.stream(PROMPT, seed=1)
    next(stream)
    assert model.session.budget.used == weights + model.session.spec.layout.bytes_per_token() * (
        stream.prompt_tokens + 200
    )
    stream.close()
    assert model.session.budget.used == weights
    assert list(stream) == []
    with model.stream(PROMPT, seed=1) as left:
        next(left)
    assert model.session.budget.used == weights
    for _ in model.stream(PROMPT, seed=1):
        break
    gc.collect()
    assert model.session.budget.used == weights


def test_memory_limits_are_kept_before_anything_is_allocated():
    with pytest.raises(MemoryLimitError, match="loading the weights of fairytale-int8 needs"):
        onnxgpt.load("fairytale", memory_limit=1000)
    weights = onnxgpt.load("fairytale").bundle.weight_bytes
    model = onnxgpt.load("fairytale", memory_limit=weights + 100 * 12_288)
    assert model.session.spec.layout.bytes_per_token() == 12_288  # 6 layers × (key + value) × 256 × 4 bytes
    with pytest.raises(MemoryLimitError, match="the largest context that fits has 100 tokens"):
        model.generate(PROMPT, seed=1)
    ids = model.tokenizer.encode(PROMPT)
    assert model.generate(ids, seed=1, max_length=100)[0].completion_tokens == 100 - len(ids)


MEASURE_CANCELLING = """
import sys
import onnxgpt

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))

model = onnxgpt.load("fairytale", threads=1)
for _ in range(3):
    stream = model.stream([433] * 450, max_new_tokens=60, do_sample=False, eos_token_id=[])
    next(stream)
    streaming = resident()
    stream.close()
    freed = streaming - resident()
print(freed, 451 * model.session.spec.layout.bytes_per_token())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
def test_a_cancelled_stream_s_memory_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", MEASURE_CANCELLING], capture_output=True, text=True, check=True)
    freed, written = map(int, done.stdout.split())
    assert freed > 0.9 * written
