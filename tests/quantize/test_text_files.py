"""Texts read, refused, and cut into windows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from onnxgpt.loading import find_bundle
from onnxgpt.quantize.text_files import EvaluationText, windows
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.errors import OptionError
from onnxgpt.runtime.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(Bundle.open(find_bundle("fairytale")).tokenizer_path)


def test_a_file_is_named_and_hashed_by_its_bytes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    data = b"\xef\xbb\xbfOnce upon a time\r\n\xe4\xb8\x80"
    path = tmp_path / "story.txt"
    path.write_bytes(data)
    text = EvaluationText.read(path)

    assert (text.name, text.sha256) == ("story.txt", hashlib.sha256(data).hexdigest())
    assert text.content == "Once upon a time\r\n一"  # the byte order mark is no part of the text
    assert text.ids(tokenizer).dtype == np.int64
    assert text.ids(tokenizer).tolist() == tokenizer.encode(text.content)


def test_the_texts_in_the_package_are_long_enough_and_have_no_passage_in_common(tokenizer: Tokenizer) -> None:
    texts = [EvaluationText.packaged(name) for name in ("calibration", "evaluation")]
    passages = [{text.content[start : start + 60] for start in range(len(text.content) - 60)} for text in texts]

    assert not passages[0] & passages[1]
    for text in texts:
        assert len(text.ids(tokenizer)) > 4096
        assert "<|endoftext|>" not in text.content
        assert "\r" not in text.content


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"caf\xe9", r"story.txt is not UTF-8 text \(unexpected end of data at byte 3\)"),
        ("Once".encode("utf-16"), "is not UTF-8 text"),
        (b"PK\x03\x04\0\0", r"is not text \(a zero at character 4\)"),
    ],
)
def test_what_is_not_utf8_text_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes(data)

    with pytest.raises(OptionError, match=message) as caught:
        EvaluationText.read(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none.txt can't be read \(No such file or directory\)"):
        EvaluationText.read(tmp_path / "none.txt")
    with pytest.raises(OptionError, match=r"can't be read \(Is a directory\)"):
        EvaluationText.read(tmp_path)


def test_an_empty_text_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(OptionError, match=r"blank.txt is empty"):
        EvaluationText.from_bytes(b"", "blank.txt").ids(tokenizer)


def test_windows_cover_whole_strides_of_the_tokens_asked_for() -> None:
    ids = np.arange(100)

    assert [part[0] for part in windows(ids, 10, 50)] == [0, 10, 20, 30, 40]
    assert [part[0] for part in windows(ids, 10, 59)] == [0, 10, 20, 30, 40]
    assert [part[0] for part in windows(ids, 30, 1000)] == [0, 30, 60]
    assert [part[0] for part in windows(ids, 40, 100, stride=25)] == [0, 25, 50]
    assert {len(part) for part in windows(ids, 40, 100, stride=25)} == {40}
    assert len(windows(ids[:11], 10, 4096)) == 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"window": 100, "tokens": 4096}, "the text has 100 tokens: expected at least 101"),
        ({"window": 1, "tokens": 10}, "window is 1: expected 2"),
        ({"window": 10, "tokens": 9}, "tokens is 9: expected at least one window of 10"),
        ({"window": 10, "tokens": 50, "stride": 11}, "stride is 11: expected 1 to 10"),
        ({"window": 10, "tokens": 50, "stride": 0}, "stride is 0: expected 1 to 10"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        windows(np.arange(100), **sizes)
