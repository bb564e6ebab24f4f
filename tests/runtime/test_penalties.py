"""Penalties that transformers lacks, against values worked by hand from their definitions."""

import math

import numpy as np
import pytest

from onnxgpt.runtime.dry import Dry, breaker_tokens
from onnxgpt.runtime.filters import exclude_top_choices
from onnxgpt.runtime.penalties import grow_end, penalize_presence_and_frequency
from onnxgpt.runtime.token_rows import Rows

A, B, C, D, Y, BREAK, OPEN, CLOSE = range(8)
NEVER = float("-inf")


def penalties_of(process, *texts, prompt_lengths=None):
    """What a processor subtracts from logits of 0."""
    rows = Rows(texts, prompt_lengths or [0] * len(texts), [0] * len(texts))
    return (-process(rows, np.zeros((len(texts), 8), np.float32))).tolist()


def dry(multiplier=1.0, base=2.0, allowed_length=2, last_n=-1, breakers=None):
    return Dry(multiplier, base, allowed_length, last_n, breakers or {}, 8)


def test_presence_once_and_frequency_for_each_time_in_the_completion():
    # OpenAI's API: logit - count * frequency_penalty - (count > 0) * presence_penalty.
    # The first row's prompt is "A B", its completion "B C B": B 2 * 0.25 + 0.5, C 0.25 + 0.5, A nothing.
    # The second's prompt is all of it.
    def process(rows, logits):
        return penalize_presence_and_frequency(rows, logits, presence=0.5, frequency=0.25)

    found = penalties_of(process, [A, B, B, C, B], [A, A], prompt_lengths=[2, 2])
    assert found[0] == [0, 1.0, 0.75, 0, 0, 0, 0, 0]
    assert not any(found[1])


def test_negative_penalties_make_likelier():
    def process(rows, logits):
        return penalize_presence_and_frequency(rows, logits, presence=-1.0, frequency=0.5)

    assert penalties_of(process, [A, A, A, B]) == [[0.5, -0.5, 0, 0, 0, 0, 0, 0]]


def test_a_decayed_end_stays_finite():
    rows = Rows([[A] * 5000], [0], [0])
    found = grow_end(rows, np.array([[-3.0, NEVER]], np.float32), np.array([0, 1]), 10, 3.0)
    assert np.isfinite(found[0, 0])
    assert found[0, 0] > 1e20
    assert found[0, 1] == NEVER


def test_dry_on_the_example_of_its_definition():
    # llama.cpp's own example: in "a b c c b c y a b c" the text's end stands before
    #   c: "a b c" (3 tokens, at the beginning), b: "c" (1), y: "b c" (2).
    # With an allowed length of 2: c 1 * 2 ** (3 - 2) = 2, y 2 ** 0 = 1, b is too short.
    text = [A, B, C, C, B, C, Y, A, B, C]
    assert penalties_of(dry(), text) == [[0, 0, 2.0, 0, 1.0, 0, 0, 0]]
    # With an allowed length of 1, b counts as well: c 4, y 2, b 1; and c stands after a single "c", which is shorter.
    assert penalties_of(dry(allowed_length=1), text) == [[0, 1.0, 4.0, 0, 2.0, 0, 0, 0]]
    assert penalties_of(dry(multiplier=0.8, base=1.75), text)[0] == pytest.approx([0, 0, 1.4, 0, 0.8, 0, 0, 0])


def test_dry_looks_at_the_last_tokens_alone():
    # Of the last 6, "b c y a b c": y after "b c".
    text = [A, B, C, C, B, C, Y, A, B, C]
    assert penalties_of(dry(last_n=6), text) == [[0, 0, 0, 0, 1.0, 0, 0, 0]]
    assert penalties_of(dry(last_n=2), text) == [[0] * 8]


def test_dry_ends_a_repetition_at_a_breaker():
    # After the last breaker stand "B C": 2 tokens at most, so D counts as after 2, not after the 4 of "A | B C".
    text = [A, BREAK, B, C, D, Y, A, BREAK, B, C]
    assert penalties_of(dry(allowed_length=1), text)[0][D] == 2.0 ** (4 - 1)
    assert penalties_of(dry(allowed_length=1, breakers={BREAK: [()]}), text)[0][D] == 2.0 ** (2 - 1)
    assert penalties_of(dry(allowed_length=3, breakers={BREAK: [()]}), text) == [[0] * 8]


def test_dry_never_penalizes_a_breaker():
    text = [A, B, BREAK, Y, A, B]
    assert penalties_of(dry(), text)[0][BREAK] == 1.0
    assert penalties_of(dry(breakers={BREAK: [()]}), text) == [[0] * 8]


def test_dry_knows_breakers_of_several_tokens():
    # "OPEN CLOSE" breaks, OPEN alone does not; the text's end after it is "B C".
    breakers = {OPEN: [(CLOSE,)]}
    text = [OPEN, CLOSE, B, C, D, OPEN, CLOSE, B, C]
    assert penalties_of(dry(breakers=breakers), text)[0][D] == 1.0
    text = [OPEN, A, B, C, D, OPEN, A, B, C]
    assert penalties_of(dry(breakers=breakers), text)[0][D] == 4.0
    # While the second token has not come, the first is one like others, and it may be penalized.
    assert penalties_of(dry(breakers=breakers), [A, B, OPEN, A, B])[0][OPEN] == 1.0


def test_dry_of_a_long_repetition_stays_finite():
    # log(float32's highest) / log(1.75) = 158.5: longer repetitions are penalized as those of 158 + 2 tokens.
    found = penalties_of(dry(base=1.75), [A] * 1000)[0][A]
    assert found == pytest.approx(1.75**158, rel=1e-6)
    assert penalties_of(dry(base=1.0), [A] * 1000)[0][A] == 1.0


def test_dry_against_its_definition_on_random_texts():
    generator = np.random.default_rng(6)
    for trial in range(60):
        text = generator.integers(0, 3, generator.integers(1, 90)).tolist()
        allowed = trial % 4
        expected = [0.0] * 8
        for place in range(1, len(text)):  # a token, and how much of the text's end stands before it
            length = 0
            while length < place and text[place - 1 - length] == text[-1 - length]:
                length += 1
            if length >= allowed and len(text) > allowed:
                expected[text[place]] = max(expected[text[place]], 1.1 ** (length - allowed))
        assert penalties_of(dry(base=1.1, allowed_length=allowed), text)[0] == pytest.approx(expected, rel=1e-5)


def test_dry_of_several_rows():
    found = penalties_of(dry(), [A, B, C, A, B], [A, B], [D, D, D, D])
    assert found[0] == [0, 0, 1.0, 0, 0, 0, 0, 0]
    assert not any(found[1])
    assert found[2] == [0, 0, 0, 2.0, 0, 0, 0, 0]


def test_breakers_are_found_in_all_tokens_that_hold_them(fairytale):
    breakers = breaker_tokens(fairytale.tokenizer, ["\n", "king said"])
    newline = fairytale.tokenizer.token_id("Ċ")
    assert breakers[newline] == [()]
    single = {token for token, tails in breakers.items() if () in tails}
    assert all("\n" in fairytale.tokenizer.pieces[token] for token in single)
    king = fairytale.tokenizer.encode(" king")[-1]
    (rest,) = breakers[king]
    assert fairytale.tokenizer.decode(rest) == " said"


def test_pieces_joined_are_the_text(fairytale):
    text = 'Once upon a time, there was: "A king!"\n'
    ids = fairytale.tokenizer.encode(text, add_special_tokens=False)
    assert "".join(fairytale.tokenizer.pieces[token] for token in ids).strip() == text.strip()


def test_xtc_leaves_the_least_likely_top_choice():
    # llama.cpp: of the tokens with p >= threshold all but the least likely go; 0.4, 0.3 and 0.2 are, 0.1 is not.
    logits = np.log(np.array([[0.3, 0.1, 0.4, 0.2]], np.float32))
    assert np.isinf(exclude_top_choices(logits, 0.15, [True]))[0].tolist() == [True, False, True, False]
    assert np.isinf(exclude_top_choices(logits, 0.25, [True]))[0].tolist() == [False, False, True, False]


def test_xtc_needs_two_top_choices_and_its_turn():
    logits = np.log(np.array([[0.3, 0.1, 0.4, 0.2]] * 2, np.float32))
    assert exclude_top_choices(logits, 0.35, [True, True]) is logits
    found = exclude_top_choices(logits, 0.15, [False, True])
    np.testing.assert_array_equal(found[0], logits[0])
    assert np.isinf(found[1]).sum() == 2
    assert exclude_top_choices(logits, 0.15, [True, True], least=3) is logits


def test_xtc_of_equals_leaves_one_and_counts_no_filtered_token():
    logits = np.array([[1.0, 1.0, NEVER, 1.0]], np.float32)
    assert exclude_top_choices(logits, 0.0, [True]).tolist() == [[NEVER, NEVER, NEVER, 1.0]]
    assert math.isclose(np.exp(logits[0, 0] - np.log(3 * np.e)), 1 / 3, rel_tol=1e-6)
