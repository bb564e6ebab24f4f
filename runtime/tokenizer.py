"""Tokenizer: text to token ids and back. StreamDecoder: token ids to text as they come, never half a character."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from .errors import BundleError

_REPLACEMENT = "\ufffd"  # what decoders put for bytes that are no character, or not yet
_WINDOW_LIMIT = 64  # tokens


class Tokenizer:
    """A Hugging Face `tokenizer.json`, without padding and truncation. May serve many threads."""

    def __init__(self, path: Path):
        """Read the tokenizer.

        Raises:
            BundleError: the file is missing or no tokenizer.
        """
        if not path.is_file():
            raise BundleError(f"{path} is missing: expected the model's tokenizer; export the model again")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path} is no tokenizer ({error}): export the model again") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._lengths: dict[int, int] = {}  # characters of each token that was asked for

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def has_vocabulary_of(self, other: Tokenizer) -> bool:
        """Whether both have the same tokens with the same ids."""
        ours, theirs = (each._tokenizer.get_vocab(with_added_tokens=True) for each in (self, other))
        return bool(ours == theirs)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, with what the tokenizer adds around it (such as a beginning-of-text token)."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def text_length(self, token_ids: Sequence[int]) -> int:
        """Characters of their text. Those of a single token are remembered, since streams ask for them all the time."""
        if len(token_ids) != 1:
            return len(self.decode(token_ids))
        length = self._lengths.get(token_ids[0])
        if length is None:
            length = self._lengths[token_ids[0]] = len(self.decode(token_ids))
        return length

    @cached_property
    def pieces(self) -> list[str]:
        """What each token adds to a text that it continues, by id; read from the tokenizer once."""
        once = self._tokenizer.decode_batch([[token] for token in range(self.vocab_size)], skip_special_tokens=False)
        # Some decoders drop the space at a text's beginning: the second of two tokens shows it.
        twice = self._tokenizer.decode_batch(
            [[token, token] for token in range(self.vocab_size)], skip_special_tokens=False
        )
        return [both[len(first) :] for first, both in zip(once, twice, strict=True)]

    def token_id(self, token: str) -> int | None:
        """Id of a token given by its text, None when the vocabulary has none."""
        return self._tokenizer.token_to_id(token)


class StreamDecoder:
    """Turns token ids into text as they come; the pieces joined are the whole text.

    A character whose bytes lie in several tokens is held back until its last byte. Only a short window of tokens
    is decoded each time, so the cost of a token does not grow with the text. The prompt's last tokens go in as
    `context`, so that the text continues the prompt (with the space that some tokenizers drop at a beginning).
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._window = _whole_characters(tokenizer, context)
        self._settled = len(self._window)  # tokens of the window whose text was given in full
        self._shown = len(tokenizer.decode(self._window).rstrip(_REPLACEMENT)) if self._window else 0  # characters

    def push(self, token_id: int) -> str:
        """Take the next token; give the text that is now certain, maybe none."""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        certain = len(text.rstrip(_REPLACEMENT)) if text.endswith(_REPLACEMENT) else len(text)
        if len(self._window) > _WINDOW_LIMIT:
            certain = len(text)
        piece = text[self._shown : certain]
        self._shown = max(self._shown, certain)
        if certain == len(text):
            self._window = self._window[self._settled :]
            self._settled = len(self._window)
            self._shown = self._tokenizer.text_length(self._window)
        return piece

    def flush(self) -> str:
        """Give what was held back: bytes that never became a character, as replacement characters."""
        text = self._tokenizer.decode(self._window)
        piece = text[self._shown :]
        self._shown = len(text)
        return piece


def text_after(tokenizer: Tokenizer, context: Sequence[int], token_ids: Sequence[int]) -> str:
    """Text of token ids as it goes on behind others, as StreamDecoder would give it in pieces."""
    window = _whole_characters(tokenizer, context)
    shown = len(tokenizer.decode(window).rstrip(_REPLACEMENT))
    return tokenizer.decode([*window, *token_ids])[shown:]


def _whole_characters(tokenizer: Tokenizer, context: Sequence[int]) -> list[int]:
    """The last few tokens of a prompt, beginning where a character begins."""
    for count in range(4, 9):
        window = list(context[-count:])
        if not tokenizer.decode(window).startswith(_REPLACEMENT):
            break
    return window
