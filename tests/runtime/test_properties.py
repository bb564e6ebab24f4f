"""What holds for any options and any text, tried with hypothesis."""

import math
from dataclasses import fields

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxgpt.runtime.config import GenerationConfig
from onnxgpt.runtime.errors import OnnxGptError, OptionError
from onnxgpt.runtime.stopping import StopMatcher
from onnxgpt.runtime.tokenizer import StreamDecoder

VOCABULARY = 4096
CONTEXT = 512
REASONS = {"eos", "stop", "stop_token", "length", "context"}
# The same examples every time, so that a failure is the change's; no deadline, since the machine may be busy.
settings.register_profile("onnxgpt", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
EXAMPLES = settings(settings.get_profile("onnxgpt"), max_examples=400)
FEWER = settings(EXAMPLES, max_examples=100)

FREQUENT = [12, 14, 199, 260, 270, 275, 308]  # , . newline the and to I: texts come upon them
tokens = st.one_of(st.sampled_from(FREQUENT), st.integers(0, VOCABULARY - 1))
token_lists = st.lists(tokens, max_size=3)
texts = st.lists(st.sampled_from(["the", " a", "e", "\n", ".", "king", "é"]), max_size=2)
OPTIONS = {
    "max_new_tokens": st.integers(1, 16),
    "max_length": st.integers(1, 12),
    "min_new_tokens": st.integers(0, 8),
    "min_length": st.integers(0, 12),
    "stop_strings": texts,
    "eos_token_id": token_lists,
    "stop_token_ids": token_lists,
    "max_time": st.floats(100, 1000),
    "context_end": st.sampled_from(["stop", "slide"]),
    "context_keep": st.integers(0, 600),
    "logprobs": st.integers(0, 5),
    "prompt_logprobs": st.booleans(),
    "do_sample": st.booleans(),
    "seed": st.integers(0, 2**64),
    "num_return_sequences": st.integers(1, 3),
    "num_beams": st.integers(1, 4),
    "length_penalty": st.floats(-2, 2),
    "early_stopping": st.sampled_from([True, False, "never"]),
    "num_beam_groups": st.integers(1, 4),
    "diversity_penalty": st.floats(0, 3),
    "temperature": st.floats(0, 100),
    "top_k": st.integers(0, 5000),
    "top_p": st.floats(0, 1),
    "min_p": st.floats(0, 1),
    "typical_p": st.floats(0, 1),
    "epsilon_cutoff": st.floats(0, 1),
    "eta_cutoff": st.floats(0, 1),
    "xtc_probability": st.floats(0, 1),
    "xtc_threshold": st.floats(0, 0.6),
    "repetition_penalty": st.floats(0, 10),
    "presence_penalty": st.floats(-5, 5),
    "frequency_penalty": st.floats(-5, 5),
    "prompt_lookup_num_tokens": st.integers(1, 12),
    "max_matching_ngram_size": st.integers(1, 4),
    "num_assistant_tokens": st.integers(1, 5),
    "no_repeat_ngram_size": st.integers(0, 3),
    "dry_multiplier": st.floats(0, 5),
    "dry_base": st.floats(1, 4),
    "dry_allowed_length": st.integers(0, 4),
    "dry_penalty_last_n": st.integers(-1, 20),
    "dry_sequence_breakers": texts,
    "bad_words": texts,
    "bad_words_ids": st.lists(st.lists(tokens, max_size=2), max_size=2),
    "suppress_tokens": token_lists,
    "begin_suppress_tokens": token_lists,
    "logit_bias": st.dictionaries(tokens, st.floats(-100, 100), max_size=2),
    "sequence_bias": st.lists(st.tuples(st.lists(tokens, max_size=2), st.floats(-10, 10)), max_size=2),
    "forced_bos_token_id": tokens,
    "forced_eos_token_id": token_lists,
    "exponential_decay_length_penalty": st.tuples(st.integers(0, 5), st.floats(0.5, 2)),
}
some_options = st.sets(st.sampled_from(sorted(OPTIONS)), max_size=6).flatmap(
    lambda names: st.fixed_dictionaries({name: OPTIONS[name] for name in sorted(names)})
)
prompts = st.one_of(
    st.lists(tokens, min_size=1, max_size=6),
    st.lists(st.lists(tokens, min_size=1, max_size=6), min_size=1, max_size=3),
    st.just([7] * (CONTEXT - 2)),
    st.text(max_size=8),
)


def test_every_option_is_tried():
    missing = {field.name for field in fields(GenerationConfig)} - set(OPTIONS)
    assert not missing, "give a new option a strategy here"


@EXAMPLES
@given(prompts=prompts, options=some_options)
def test_any_options_generate_within_their_limits_or_are_refused(fairytale, prompts, options):
    bounded = {"max_new_tokens": 12} | options if "max_length" not in options else options
    try:
        completions = fairytale.generate(prompts, **bounded)
    except OnnxGptError as error:
        refused_in_one_line(error)
        return
    config = GenerationConfig.resolve(fairytale.generation_defaults, bounded)
    several = isinstance(prompts, list) and isinstance(prompts[0], list)
    assert len(completions) == (len(prompts) if several else 1) * config.num_return_sequences
    for index, completion in enumerate(completions):
        assert (completion.prompt_index, completion.sequence_index) == divmod(index, config.num_return_sequences)
        assert_within_limits(completion, config)


def refused_in_one_line(error, name=""):
    """Whether the message tells what was found and what to do."""
    message = str(error)
    assert "\n" not in message
    assert ": " in message
    assert name in message


def assert_within_limits(completion, config):
    total = completion.prompt_tokens + completion.completion_tokens
    assert completion.finish_reason in REASONS
    assert 1 <= completion.completion_tokens == len(completion.token_ids) == len(completion.logprobs)
    if config.max_length is None:
        assert completion.completion_tokens <= config.max_new_tokens
    else:
        assert total <= config.max_length
    assert total <= CONTEXT or config.context_end == "slide"
    assert all(0 <= token < VOCABULARY for token in completion.token_ids)
    assert all(math.isfinite(logprob) and logprob < 1e-3 for logprob in completion.logprobs)
    assert not any(stop in completion.text for stop in config.stop_strings)
    assert (completion.finish_reason == "eos") == (
        completion.token_ids[-1] in config.eos_token_id and completion.finish_reason != "stop"
    )
    assert len(completion.top_logprobs) == (completion.completion_tokens if config.logprobs else 0)
    assert len(completion.prompt_logprobs) == (completion.prompt_tokens - 1 if config.prompt_logprobs else 0)
    assert (completion.seed is None) == (not config.do_sample or config.temperature == 0)


@FEWER
@given(prompts=prompts, options=some_options, seed=st.integers(0, 99))
def test_streams_come_to_what_generate_gives(fairytale, prompts, options, seed):
    options = {name: value for name, value in options.items() if not name.startswith(("num_beam", "max_"))}
    options |= {"max_new_tokens": 6, "do_sample": True, "seed": seed}
    try:
        whole = fairytale.generate(prompts, **options)
    except OnnxGptError as error:
        with pytest.raises(type(error)):
            list(fairytale.stream(prompts, **options))
        return
    events = list(fairytale.stream(prompts, batch_size=2, **options))
    for index, completion in enumerate(whole):
        mine = [event for event in events if event.row == index]
        assert "".join(event.text for event in mine) == completion.text
        assert tuple(event.id for event in mine) == completion.token_ids
        assert mine[-1].finish_reason == completion.finish_reason


@EXAMPLES
@given(text=st.text(max_size=60))
def test_any_text_comes_back_from_its_streamed_tokens(fairytale, text):
    ids = fairytale.tokenizer.encode(text)
    decoder = StreamDecoder(fairytale.tokenizer)
    pieces = [decoder.push(token) for token in ids]
    assert "".join(pieces) + decoder.flush() == text
    assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text


@EXAMPLES
@given(ids=st.lists(tokens, max_size=80), context=st.lists(tokens, max_size=12))
def test_any_tokens_stream_to_their_text(fairytale, ids, context):
    decoder = StreamDecoder(fairytale.tokenizer)
    assert "".join(map(decoder.push, ids)) + decoder.flush() == fairytale.tokenizer.decode(ids)
    behind = StreamDecoder(fairytale.tokenizer, context=fairytale.tokenizer.encode("So: ") + context)
    text = "".join(map(behind.push, ids)) + behind.flush()
    whole = fairytale.tokenizer.decode([*context, *ids])
    assert whole.endswith(text)


@EXAMPLES
@given(
    pieces=st.lists(st.text("abé\U0001f600", max_size=5), max_size=10),
    stops=st.lists(st.text("abé\U0001f600", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_never_appear_and_nothing_else_is_lost(pieces, stops):
    matcher, shown, stopped = StopMatcher(stops), "", False
    for piece in pieces:
        text, stopped = matcher.push(piece)
        shown += text
        if stopped:
            break
    else:
        shown += matcher.flush()
    whole = "".join(pieces)
    assert not any(stop in shown for stop in stops)
    assert stopped == any(stop in whole for stop in stops)
    assert whole.startswith(shown)
    assert stopped or shown == whole


@EXAMPLES
@given(name=st.sampled_from(sorted(OPTIONS)), value=st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=True), st.text(max_size=3),
    st.lists(st.one_of(st.integers(-2, 3), st.text(max_size=1), st.none()), max_size=2),
))  # fmt: skip
def test_any_value_of_an_option_is_taken_or_refused_by_name(name, value):
    try:
        config = GenerationConfig(**{name: value})
    except OptionError as error:
        refused_in_one_line(error, name)
    else:
        hash(config)  # frozen all through
        assert GenerationConfig(**{name: getattr(config, name)}) == config
