"""Texts to calibrate on and to judge by: read from files, checked, and cut into windows of tokens."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import OptionError
from ..runtime.tokenizer import Tokenizer

TokenIds = NDArray[np.int64]

_PACKAGED = Path(__file__).parent / "texts"


@dataclass(frozen=True)
class EvaluationText:
    """A text with what identifies it in a report: the file's name, and the SHA-256 of its bytes in hex."""

    name: str
    sha256: str
    content: str = field(repr=False)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> EvaluationText:
        """Read a UTF-8 file, with or without a byte order mark.

        Raises:
            OptionError: it can't be read or is not UTF-8 text.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise OptionError(f"{path} can't be read ({error.strerror}): expected a text file") from error
        return cls.from_bytes(data, Path(path).name)

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> EvaluationText:
        """The text of a file's content.

        Raises:
            OptionError: it is not UTF-8 text.
        """
        try:
            content = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise OptionError(
                f"{name} is not UTF-8 text ({error.reason} at byte {error.start}): expected text saved as UTF-8"
            ) from error
        if (where := content.find("\0")) >= 0:
            raise OptionError(f"{name} is not text (a zero at character {where}): expected text saved as UTF-8")
        return cls(name, hashlib.sha256(data).hexdigest(), content)

    @classmethod
    def packaged(cls, name: Literal["calibration", "evaluation"]) -> EvaluationText:
        """One of the two texts in the package, see texts/README.txt."""
        return cls.read(_PACKAGED / f"{name}.txt")

    def ids(self, tokenizer: Tokenizer) -> TokenIds:
        """The whole text's token ids, int64 [tokens], with what the tokenizer adds at its beginning.

        Raises:
            OptionError: there are none.
        """
        ids = np.array(tokenizer.encode(self.content), np.int64)
        if not ids.size:
            raise OptionError(f"{self.name} is empty: expected a text")
        return ids


def windows(ids: TokenIds, window: int, tokens: int, stride: int | None = None) -> list[TokenIds]:
    """Cut the first `tokens` of a text into windows; what is left at its end and fills no window is not used.

    Args:
        ids: int64 [tokens of the text].
        window: tokens in each.
        tokens: at most so many tokens of the text; all of it when it is shorter.
        stride: tokens from one window's beginning to the next one's; None: `window`, so that none overlap.

    Returns:
        int64 [window] each.

    Raises:
        OptionError: the text has fewer tokens than one window and a token more, or the sizes make no sense.

    >>> [part.tolist() for part in windows(np.arange(9), 4, 9)]
    [[0, 1, 2, 3], [4, 5, 6, 7]]
    >>> [part.tolist() for part in windows(np.arange(9), 4, 8, stride=2)]
    [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    """
    step = window if stride is None else stride
    if window < 2:
        raise OptionError(f"window is {window}: expected 2 tokens or more")
    if not 1 <= step <= window:
        raise OptionError(f"stride is {step}: expected 1 to {window} (the window), so that no token is left out")
    if tokens < window:
        raise OptionError(f"tokens is {tokens}: expected at least one window of {window}")
    if len(ids) < window + 1:
        raise OptionError(
            f"the text has {len(ids)} tokens: expected at least {window + 1}, one window and a token more; "
            "give a longer text or a smaller window"
        )
    last = min(len(ids), tokens) - window
    return [ids[start : start + window] for start in range(0, last + 1, step)]
