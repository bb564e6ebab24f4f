"""Where environments and converted models live, so that what is there already is used again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .environments import Environment, UnavailableError


@dataclass(frozen=True)
class Workspace:
    """The directories of a comparison of one checkpoint."""

    environments: Path
    models: Path
    source: str  # what `open_checkpoint` takes

    def environment(self, name: str) -> Environment:
        """An environment by its name, made or not."""
        return Environment(self.environments / name)

    def hugging_face(self) -> Path:
        """The checkpoint as a float32 Hugging Face directory."""

        def write(target: Path) -> None:
            from onnxgpt.models.checkpoint import open_checkpoint

            from .weights import write_hugging_face

            write_hugging_face(open_checkpoint(self.source), target)

        return self.made("hugging-face", write)

    def gguf(self) -> Path:
        """The checkpoint as a float32 GGUF file; one that is no GGUF file itself comes without a tokenizer.

        Raises:
            UnavailableError: how GGUF writes a checkpoint of its family is not known.
        """
        path = self.gguf_source()

        def write(target: Path) -> None:
            from onnxgpt.models.checkpoint import open_checkpoint

            from .weights import write_checkpoint_as_gguf, write_gguf

            if path is not None:
                write_gguf(path, target)
                return
            try:
                write_checkpoint_as_gguf(open_checkpoint(self.source), target)
            except ValueError as error:
                raise UnavailableError(str(error)) from error

        return self.made("float32.gguf", write)

    def gguf_source(self) -> Path | None:
        """The file behind the checkpoint when it is GGUF."""
        from onnxgpt.models.catalog import CATALOG, find

        path = find(self.source) if self.source in CATALOG else Path(self.source)
        return path if path is not None and path.suffix == ".gguf" and path.is_file() else None

    def made(self, name: str, make: Callable[[Path], Any]) -> Path:
        """A file or directory of this checkpoint, made unless it is there; one made by halves never has its name."""
        final = self.models / self._key() / name
        if final.exists():
            return final
        partial = final.with_name(f"{name}.partial")
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        make(partial)
        partial.rename(final)
        return final

    def _key(self) -> str:
        """A name for the checkpoint: models of another one must not be taken for its own."""
        path = Path(self.source)
        if not path.exists():
            return self.source.replace("/", "--")
        digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
        return f"{path.stem}-{digest}"


def file_bytes(path: Path) -> int:
    """Size of a file, or of all files of a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
