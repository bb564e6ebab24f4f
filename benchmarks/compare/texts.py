"""The texts on which quality is measured, as windows of token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).resolve().parents[2] / "quantize" / "texts" / "evaluation.txt"


@dataclass(frozen=True)
class Text:
    """A file, read from some character on."""

    path: Path
    start: int = 0

    @classmethod
    def parse(cls, argument: str) -> Text:
        """`FILE` or `FILE@CHARACTER`."""
        path, _, start = argument.rpartition("@")
        return cls(Path(path), int(start)) if path and start.isdigit() else cls(Path(argument))

    @property
    def name(self) -> str:
        """As the tables show it."""
        return self.path.name + (f"@{self.start}" if self.start else "")

    def sha256(self) -> str:
        """Of the whole file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def facts(self, windows: Sequence[Sequence[int]]) -> dict[str, Any]:
        """What a report says of it."""
        return {"sha256": self.sha256(), "tokens": sum(map(len, windows)), "window": max(map(len, windows))}

    def windows(self, tokenizer: Path, tokens: int, window: int) -> list[list[int]]:
        """The first `tokens` tokens, cut into windows; a last window too short to predict anything is left out.

        Raises:
            ValueError: the text has fewer than two tokens.
        """
        from tokenizers import Tokenizer

        content = self.path.read_text(encoding="utf-8")[self.start :]
        # Ten characters a token are more than any tokenizer needs; the rest of a long file is not read for nothing.
        ids = Tokenizer.from_file(str(tokenizer)).encode(content[: 10 * tokens], add_special_tokens=False).ids[:tokens]
        cut = [ids[start : start + window] for start in range(0, len(ids), window)]
        found = [each for each in cut if len(each) > 1]
        if not found:
            raise ValueError(f"{self.name} has {len(ids)} tokens: expected two or more")
        return found
