import pytest

from onnxgpt.runtime.config import GenerationConfig
from onnxgpt.runtime.errors import OptionError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1: expected a number 0 or more"),
        ({"temperature": 1e-9}, "temperature is 1e-09: expected a number 0 or more, and at least 0.000001"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_p": 0.0}, "top_p is 0.0: expected a number above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_k": -1}, "top_k is -1: expected a whole number of at least 0"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"max_length": 0}, "max_length is 0"),
        ({"typical_p": 0}, "typical_p is 0: expected a number above 0 and at most 1"),
        ({"epsilon_cutoff": 1}, "epsilon_cutoff is 1: expected a number of 0 or more and below 1"),
        ({"eta_cutoff": -0.1}, "eta_cutoff is -0.1"),
        ({"xtc_probability": 1.5}, "xtc_probability is 1.5: expected a number from 0 to 1"),
        ({"xtc_threshold": 0.6, "xtc_probability": 1}, "xtc_threshold is 0.6: expected a number from 0 to 0.5"),
        ({"presence_penalty": "much"}, "presence_penalty is 'much': expected a number"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty is inf"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
        ({"dry_multiplier": -1}, "dry_multiplier is -1: expected a number 0 or more"),
        ({"dry_multiplier": 1, "dry_base": 0.5}, "dry_base is 0.5: expected a number of at least 1"),
        ({"dry_multiplier": 1, "dry_allowed_length": -1}, "dry_allowed_length is -1"),
        (
            {"dry_multiplier": 1, "dry_penalty_last_n": 0},
            "dry_penalty_last_n is 0: expected a whole number of at least 1",
        ),
        ({"dry_multiplier": 1, "dry_sequence_breakers": [""]}, "dry_sequence_breakers holds an empty string"),
        ({"bad_words": ""}, "bad_words holds an empty string"),
        ({"bad_words_ids": [3]}, "bad_words_ids holds 3: expected a sequence of token ids"),
        ({"bad_words_ids": [[]]}, "bad_words_ids holds []"),
        ({"bad_words_ids": [[1, -2]]}, "bad_words_ids holds [1, -2]"),
        ({"suppress_tokens": ["a"]}, "suppress_tokens holds 'a': expected a token id"),
        ({"begin_suppress_tokens": -1}, "begin_suppress_tokens holds -1"),
        ({"logit_bias": [3]}, "logit_bias holds 3: expected pairs"),
        ({"logit_bias": {"a": 1}}, "logit_bias holds 'a': expected a token id"),
        ({"logit_bias": {3: "b"}}, "logit_bias holds the bias 'b': expected a number"),
        ({"logit_bias": {3: float("inf")}}, "logit_bias holds the bias inf"),
        ({"logit_bias": 3}, "logit_bias is 3: expected a list"),
        ({"sequence_bias": {3: 1.0}}, "sequence_bias holds 3: expected a sequence of token ids"),
        ({"sequence_bias": [[[3], 1.0], [[3], 2.0]]}, "sequence_bias biases the same tokens twice"),
        ({"forced_bos_token_id": "a"}, "forced_bos_token_id is 'a': expected a token id"),
        ({"forced_eos_token_id": -1}, "forced_eos_token_id holds -1"),
        (
            {"exponential_decay_length_penalty": 5, "eos_token_id": 1},
            "exponential_decay_length_penalty is 5: expected two numbers",
        ),
        (
            {"exponential_decay_length_penalty": [-1, 1.5], "eos_token_id": 1},
            "the start of exponential_decay_length_penalty is -1",
        ),
        (
            {"exponential_decay_length_penalty": [1, 0], "eos_token_id": 1},
            "the factor of exponential_decay_length_penalty is 0: expected a number above 0",
        ),
        ({"min_length": 3, "min_new_tokens": 3}, "min_length and min_new_tokens both given"),
        (
            {"min_new_tokens": 9, "max_new_tokens": 5, "eos_token_id": 1},
            "min_new_tokens is 9 and max_new_tokens 5: expected min_new_tokens to be no more",
        ),
        ({"min_length": 9, "max_length": 5, "eos_token_id": 1}, "min_length is 9 and max_length 5"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"do_sample": 1}, "do_sample is 1: expected True or False"),
        ({"stop_strings": ""}, "stop_strings holds an empty string"),
        ({"stop_strings": {"a": 1}}, "stop_strings is {'a': 1}: expected a string or a list of them"),
        ({"eos_token_id": "5"}, "eos_token_id is '5': expected a token id or a list of them"),
        ({"eos_token_id": [1, True]}, "eos_token_id holds True"),
        ({"stop_strings": ["a", 3]}, "stop_strings holds 3: expected a string"),
        ({"eos_token_id": -1}, "eos_token_id holds -1: expected a token id"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "below 2**64"),
        ({"temprature": 1}, "unknown option 'temprature': did you mean temperature?"),
        ({"wings": 2}, "unknown option 'wings': expected a field of GenerationConfig"),
        ({"max_length": 5, "max_new_tokens": 5}, "both given"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(OptionError) as caught:
        GenerationConfig.resolve({}, {"do_sample": True} | options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


ONLY_SAMPLED = {
    "temperature": 0.5,
    "top_k": 5,
    "top_p": 0.5,
    "min_p": 0.1,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "xtc_probability": 0.1,
    "xtc_threshold": 0.1,
    "seed": 1,
}


@pytest.mark.parametrize(("name", "value"), ONLY_SAMPLED.items())
def test_options_without_effect_are_refused(name, value):
    with pytest.raises(OptionError, match=f"{name} has no effect without do_sample=True"):
        GenerationConfig.resolve({}, {name: value})
    if name != "temperature":
        with pytest.raises(OptionError, match=f"{name} has no effect with temperature 0"):
            GenerationConfig.resolve({"do_sample": True}, {name: value, "temperature": 0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_new_tokens": 5}, "min_new_tokens has no effect without end tokens: give eos_token_id"),
        ({"min_length": 5}, "min_length has no effect without end tokens"),
        (
            {"exponential_decay_length_penalty": [5, 1.1]},
            "exponential_decay_length_penalty has no effect without end tokens",
        ),
        ({"dry_base": 2}, "dry_base has no effect without dry_multiplier, which is 0"),
        ({"dry_allowed_length": 2}, "dry_allowed_length has no effect"),
        ({"dry_penalty_last_n": 2}, "dry_penalty_last_n has no effect"),
        ({"dry_sequence_breakers": []}, "dry_sequence_breakers has no effect"),
        ({"do_sample": True, "xtc_threshold": 0.2}, "xtc_threshold has no effect without xtc_probability"),
        ({"bad_words_ids": [[7], [3]], "eos_token_id": 3}, "bad_words_ids holds the end token 3"),
    ],
)
def test_options_that_need_another_are_refused_without_it(options, message):
    with pytest.raises(OptionError, match=message) as caught:
        GenerationConfig.resolve({}, options)
    assert "\n" not in str(caught.value)
    GenerationConfig.resolve(options, {})  # a bundle's defaults are not judged


def test_a_given_least_length_replaces_the_inherited_one():
    config = GenerationConfig.resolve({"min_length": 30, "eos_token_id": 1}, {"min_new_tokens": 2})
    assert (config.min_length, config.min_new_tokens) == (None, 2)
    config = GenerationConfig.resolve({"min_new_tokens": 30, "eos_token_id": 1}, {"min_length": 2})
    assert (config.min_length, config.min_new_tokens) == (2, None)


def test_the_same_sequence_twice_is_refused():
    with pytest.raises(OptionError, match="would be the same"):
        GenerationConfig.resolve({}, {"num_return_sequences": 2})


def test_inherited_defaults_are_not_judged_and_foreign_keys_pass():
    defaults = {"temperature": 0.8, "top_k": 40, "seed": 3, "transformers_version": "5", "pad_token_id": 0}
    config = GenerationConfig.resolve(defaults, {"do_sample": False})
    assert config.is_greedy
    assert config.top_k == 40


def test_none_is_the_same_as_leaving_an_option_out():
    assert GenerationConfig.resolve({"top_k": 7}, {"top_k": None, "max_length": None}).top_k == 7
    assert GenerationConfig(top_p=None, seed=None) == GenerationConfig()


def test_temperature_zero_means_greedy():
    assert GenerationConfig.resolve({"do_sample": True, "temperature": 0.8}, {"temperature": 0}).is_greedy
    assert not GenerationConfig.resolve({"do_sample": True}, {}).is_greedy


@pytest.mark.parametrize(
    ("defaults", "options", "expected"),
    [
        ({}, {}, 256),
        ({"max_new_tokens": 200}, {}, 200),
        ({"max_new_tokens": 200}, {"max_length": 30}, 20),
        ({"max_length": 50}, {}, 40),
        ({"max_length": 50}, {"max_new_tokens": 5}, 5),
        ({}, {"max_new_tokens": 10_000}, 502),  # cut at the context's end
    ],
)
def test_length_limits(defaults, options, expected):
    config = GenerationConfig.resolve(defaults, options)
    assert config.new_token_limit(prompt_length=10, context_length=512) == expected


def test_max_length_without_room_is_refused():
    config = GenerationConfig.resolve({}, {"max_length": 10})
    with pytest.raises(OptionError, match="max_length counts the prompt too"):
        config.new_token_limit(prompt_length=10, context_length=512)


def test_biases_as_mappings_and_as_pairs_mean_the_same():
    assert GenerationConfig(logit_bias={3: -1}).logit_bias == ((3, -1.0),)
    assert GenerationConfig(logit_bias=[[3, -1]]) == GenerationConfig(logit_bias={3: -1.0})
    assert GenerationConfig(sequence_bias={(3, 4): 2}) == GenerationConfig(sequence_bias=[[[3, 4], 2.0]])
    assert hash(GenerationConfig(bad_words_ids=[[1, 2]], logit_bias={3: float("-inf")}))


def test_single_values_and_lists_mean_the_same():
    assert GenerationConfig(stop_strings="x") == GenerationConfig(stop_strings=["x"])
    assert GenerationConfig(eos_token_id=2).eos_token_id == GenerationConfig(eos_token_id=[2]).eos_token_id == (2,)
