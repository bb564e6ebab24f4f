"""The tokenizer of a Hugging Face directory as the files that a bundle carries; older kinds are converted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..runtime.errors import CheckpointError

# transformers 5 writes this name for any tokenizer.json; transformers 4 knows the same class as the second.
_NEW_GENERIC_CLASS, GENERIC_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
_CONVERTIBLE = (("vocab.json", "merges.txt"), ("tokenizer.model",), ("spiece.model",))


def tokenizer_files(directory: Path, *, vocab_size: int) -> dict[str, bytes]:
    """`tokenizer.json`, `tokenizer_config.json` and, when there is one, `chat_template.jinja`.

    Args:
        directory: where they are, in their present or an older form; or the path of a `tokenizer.json` alone.
        vocab_size: rows of the embedding.

    Raises:
        CheckpointError: no tokenizer, one that cannot be read or converted, or ids beyond the embedding's rows.
    """
    if directory.is_file():
        content = directory.read_bytes()
        check_tokenizer(content, vocab_size=vocab_size, origin=str(directory))
        return {"tokenizer.json": content, "tokenizer_config.json": to_json({"tokenizer_class": GENERIC_CLASS})}
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is no tokenizer: expected a directory that holds one, or a tokenizer.json")
    settings = read_json(directory / "tokenizer_config.json")
    for name, token in read_json(directory / "special_tokens_map.json").items():
        if name in _SPECIAL_TOKENS and settings.get(name) is None:
            settings[name] = token
    path = directory / "tokenizer.json"
    if path.is_file():
        content = path.read_bytes()
        if settings.get("tokenizer_class") in (None, _NEW_GENERIC_CLASS):
            settings["tokenizer_class"] = GENERIC_CLASS
    else:
        content = _convert(directory)
        settings["tokenizer_class"] = GENERIC_CLASS  # the named class would look for the older files
    check_tokenizer(content, vocab_size=vocab_size, origin=str(path))
    files = {"tokenizer.json": content, "tokenizer_config.json": to_json(settings)}
    template = _chat_template(directory, settings)
    return files | ({"chat_template.jinja": template.encode()} if template else {})


def end_token_ids(files: Mapping[str, bytes]) -> dict[str, int]:
    """`bos_token_id` and `eos_token_id`, where `tokenizer_config.json` names tokens that `tokenizer.json` has."""
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode("utf-8"))
    settings = json.loads(files["tokenizer_config.json"])
    found = {}
    for name in ("bos_token", "eos_token"):
        token = settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        number = tokenizer.token_to_id(token) if isinstance(token, str) else None
        if number is not None:
            found[f"{name}_id"] = number
    return found


def check_tokenizer(content: bytes, *, vocab_size: int, origin: str) -> Tokenizer:
    """Open a `tokenizer.json` and check that every id has a row in the embedding.

    Raises:
        CheckpointError: it cannot be read, is empty, or has an id of `vocab_size` or more.
    """
    try:
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{origin} is no tokenizer ({error}): fetch or save it again") from error
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise CheckpointError(f"{origin} has an empty vocabulary: fetch or save it again")
    token, largest = max(vocabulary.items(), key=lambda item: item[1])
    if largest >= vocab_size:
        raise CheckpointError(
            f"{origin} gives {token!r} the id {largest}, the embedding has {vocab_size} rows: "
            "the tokenizer is of another model"
        )
    return tokenizer


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, `{}` when there is no such file.

    Raises:
        CheckpointError: the file is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}): fetch it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds {type(data).__name__}: expected a JSON object")
    return data


def to_json(data: Mapping[str, Any]) -> bytes:
    """A JSON file's content."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def _chat_template(directory: Path, settings: Mapping[str, Any]) -> str | None:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name: [{"name": …, "template": …}]
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{directory / 'tokenizer_config.json'}: chat_template is {template!r}, expected text")
    return template


def _convert(directory: Path) -> bytes:
    found = [names for names in _CONVERTIBLE if all((directory / name).is_file() for name in names)]
    if not found:
        raise CheckpointError(
            f"{directory} has no tokenizer: expected tokenizer.json, or vocab.json and merges.txt, or tokenizer.model; "
            "fetch the whole checkpoint, or give the tokenizer with --tokenizer DIR_OR_FILE"
        )
    from transformers import AutoTokenizer  # seconds to import, and needed here alone

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        return str(tokenizer.backend_tokenizer.to_str()).encode()
    except Exception as error:  # whatever a converter of transformers meets
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{directory}: {' and '.join(found[0])} cannot be converted to tokenizer.json ({reason}): "
            "save the tokenizer with a recent transformers (a tokenizer.model needs sentencepiece installed)"
        ) from error
