import pytest

from onnxgpt.runtime.config import GenerationConfig
from onnxgpt.runtime.errors import OptionError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1: expected a number 0 or more"),
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


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "min_p", "seed"])
def test_options_without_effect_are_refused(name):
    value = {"temperature": 0.5, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "seed": 1}[name]
    with pytest.raises(OptionError, match=f"{name} has no effect without do_sample=True"):
        GenerationConfig.resolve({}, {name: value})
    if name != "temperature":
        with pytest.raises(OptionError, match=f"{name} has no effect with temperature 0"):
            GenerationConfig.resolve({"do_sample": True}, {name: value, "temperature": 0})


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


def test_single_values_and_lists_mean_the_same():
    assert GenerationConfig(stop_strings="x") == GenerationConfig(stop_strings=["x"])
    assert GenerationConfig(eos_token_id=2).eos_token_id == GenerationConfig(eos_token_id=[2]).eos_token_id == (2,)
