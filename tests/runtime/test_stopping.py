import random

import pytest

from onnxgpt.runtime.stopping import StopMatcher


def run(stops, pieces):
    matcher = StopMatcher(stops)
    text = ""
    for piece in pieces:
        more, stopped = matcher.push(piece)
        text += more
        if stopped:
            return text, True
    return text + matcher.flush(), False


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ([], ["a", "b"], ("ab", False)),
        (["b"], ["ab"], ("a", True)),
        (["the end"], ["once, th", "e e", "nd."], ("once, ", True)),
        (["the end"], ["once, th", "e e", "gg"], ("once, the egg", False)),
        (["aab"], ["a", "a", "a", "b"], ("a", True)),
        (["abc", "b"], ["a", "b", "c"], ("a", True)),
        (["x", "yz"], ["..y"], ("..y", False)),
        (["\n\n"], ["line\n", "\nmore"], ("line", True)),
    ],
)
def test_stop_strings(stops, pieces, expected):
    assert run(stops, pieces) == expected


def test_cuts_into_pieces_change_nothing():
    chance = random.Random(3)
    for _ in range(500):
        text = "".join(chance.choices("ab ", k=20))
        stops = ["".join(chance.choices("ab ", k=chance.randint(1, 4))) for _ in range(2)]
        whole = min((text.find(stop) for stop in stops if stop in text), default=None)
        cuts = sorted(chance.sample(range(1, 20), 4))
        pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, 20], strict=True)]
        result, stopped = run(stops, pieces)
        assert stopped == (whole is not None)
        assert text.startswith(result)
        assert not any(stop in result for stop in stops)
        if not stopped:
            assert result == text
