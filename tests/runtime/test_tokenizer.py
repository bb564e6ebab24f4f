"""StreamDecoder against decoding all at once, on texts whose characters spread over several tokens."""

import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from onnxgpt.runtime.errors import BundleError
from onnxgpt.runtime.tokenizer import StreamDecoder, Tokenizer

FAIRYTALE = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint" / "tokenizer.json"
TEXTS = [
    "Once upon a time",
    "从前有一位公主，住在山里。",
    "emoji 😀👩‍👩‍👧 and flags 🇨🇳",
    "combining cafe\u0301 and a\u0308\u0323",
    "עברית العربية हिन्दी",
    "a genuine \ufffd in the text",
    "  spaces \n\n\t tabs  ",
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(FAIRYTALE)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_whole_text(tokenizer, text):
    ids = tokenizer.encode(text)
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push(token) for token in ids]
    tail = decoder.flush()
    assert "".join(pieces) + tail == tokenizer.decode(ids) == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)
        assert tail == ""


def test_arbitrary_bytes_join_to_the_whole_text(tokenizer):
    chance = random.Random(1)
    for _ in range(300):
        ids = [chance.randrange(1, tokenizer.vocab_size) for _ in range(30)]
        decoder = StreamDecoder(tokenizer)
        assert "".join([decoder.push(token) for token in ids]) + decoder.flush() == tokenizer.decode(ids)


def test_bytes_that_end_in_the_middle_come_with_the_flush(tokenizer):
    ids = tokenizer.encode("princess 😀")[:-1]
    decoder = StreamDecoder(tokenizer)
    assert "".join(decoder.push(token) for token in ids) == "princess "
    assert set(decoder.flush()) == {"\ufffd"}


@pytest.mark.parametrize("split", range(1, 12))
def test_text_continues_the_prompt(tokenizer, split):
    text = "There was a prince 王子 who"
    ids = tokenizer.encode(text)
    decoder = StreamDecoder(tokenizer, context=ids[:split])
    continued = "".join([decoder.push(token) for token in ids[split:]]) + decoder.flush()
    assert tokenizer.decode(ids[:split]).rstrip("\ufffd") + continued == text


def test_the_space_before_a_word_is_kept(tmp_path):
    """SentencePiece's decoder drops the space of the first word: the words of a stream keep theirs."""
    vocabulary = {"▁Hello": 0, "▁world": 1, "!": 2, "<0xE2>": 3, "<0x82>": 4, "<0xAC>": 5}
    raw = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="!"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])  # fmt: skip
    raw.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    decoder = StreamDecoder(tokenizer, context=[0])
    assert [decoder.push(token) for token in (1, 3, 4, 5, 2)] == [" world", "", "", "€", "!"]
    decoder = StreamDecoder(tokenizer)
    assert [decoder.push(token) for token in (0, 1)] == ["Hello", " world"]


def test_missing_and_broken_files_are_refused(tmp_path):
    with pytest.raises(BundleError, match=r"tokenizer.json is missing"):
        Tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match="is no tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json")
