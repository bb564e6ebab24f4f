"""Hub ids: a checkpoint fetched by huggingface_hub into its own cache, only the files that are read here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import DownloadError, SourceNotFoundError

_SMALL_FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
    "README.md",
]
_SAFETENSORS = ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"]
_PICKLES = ["pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"]


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint in huggingface_hub's cache, and the commit it is of."""

    directory: Path
    commit: str


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form `organisation/model`."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is not None


def fetch_snapshot(hub_id: str, revision: str | None) -> Snapshot:
    """Fetch a model's config, tokenizer and weights; what the cache has is not fetched again.

    Raises:
        SourceNotFoundError: no such model or revision, or no right to read it.
        DownloadError: the hub cannot be reached, or the download failed.
    """
    import huggingface_hub
    from huggingface_hub import errors

    def fetch(patterns: list[str]) -> Path:
        return Path(huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=patterns))

    shown = f"{hub_id} at revision {revision}" if revision else hub_id
    try:
        directory = fetch(_SMALL_FILES + _SAFETENSORS)
        if not list(directory.glob("*.safetensors")):  # pickles only where there is nothing better
            directory = fetch(_SMALL_FILES + _PICKLES)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise SourceNotFoundError(
            f"the hub has no {shown}, or it is not public ({_reason(error)}): check the name, or log in with a token"
        ) from error
    except Exception as error:  # httpx, hf-xet, the cache's disk: many trees of exceptions, one thing to say
        raise DownloadError(
            f"{shown} could not be fetched from the hub ({_reason(error)}): check the network, or give the path of a "
            "directory that has the checkpoint"
        ) from error
    return Snapshot(directory, directory.name)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().split("\n")
    return f"{type(error).__name__}: {lines[0][:140]}" if lines[0] else type(error).__name__
