"""The input of `onnxgpt generate --batch`: what each line of a JSON Lines file asks for."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .runtime.errors import OptionError, PromptError

_KEYS = ("prompt", "messages", "id", "options")
_RIVALS = (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length"))  # of each pair one may be given


@dataclass(frozen=True)
class Line:
    """What a line asks for, or why it asks for nothing."""

    number: int  # from 1
    request: str  # a digest of all that decides on the result
    content: Any = None  # a text, token ids, or messages for the chat template
    is_chat: bool = False
    id: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of the command line, and its own
    own: frozenset[str] = frozenset()  # names of its own
    error: str = ""


def read_lines(file: str) -> list[bytes]:
    """The lines of a file, or of stdin (`-`).

    Raises:
        PromptError: it can't be read.
    """
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise PromptError(f"{file} can't be read ({error.strerror}): expected a JSON Lines file of prompts") from error
    return data.removeprefix(b"\xef\xbb\xbf").split(b"\n")


def parse_lines(lines: Iterable[bytes], options: Mapping[str, Any], *, as_chat: bool, model: str) -> dict[int, Line]:
    """The lines that are not empty, by number.

    Args:
        lines: UTF-8.
        options: of generation, for lines that don't say otherwise.
        as_chat: prompts are a user's messages.
        model: a digest of the model, for those of the lines.
    """
    return {
        number: _parse(number, data, options, as_chat, model)
        for number, data in enumerate(lines, start=1)
        if data.strip()
    }


def _parse(number: int, data: bytes, shared: Mapping[str, Any], as_chat: bool, model: str) -> Line:
    try:
        found = _checked(data)
    except (PromptError, OptionError) as error:
        return Line(number, hashlib.sha256(data).hexdigest()[:16], error=str(error))
    own = found.get("options", {})
    options = {**{name: value for name, value in shared.items() if name not in _replaced_by(own)}, **own}
    is_chat = as_chat or "messages" in found
    content = found["messages"] if "messages" in found else found["prompt"]
    if is_chat and isinstance(content, str):
        content = [{"role": "user", "content": content}]
    decisive = json.dumps([model, is_chat, content, found.get("id"), options], sort_keys=True)
    digest = hashlib.sha256(decisive.encode()).hexdigest()[:16]
    return Line(number, digest, content, is_chat, found.get("id"), options, frozenset(own))


def _checked(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise PromptError(f"not UTF-8 ({error.reason} at byte {error.start}): expected a JSON object") from error
    except (ValueError, RecursionError) as error:
        raise PromptError(f"not JSON ({error}): expected an object with a prompt or messages") from error
    if not isinstance(found, dict):
        raise PromptError(f"{type(found).__name__} instead of an object: expected one with a prompt or messages")
    if unknown := [key for key in found if key not in _KEYS]:
        raise PromptError(
            f"unknown key {unknown[0]!r}: expected {', '.join(_KEYS)}; what generation is to do goes into options"
        )
    if ("prompt" in found) == ("messages" in found):
        raise PromptError(f"{'both' if 'prompt' in found else 'no'} prompt and messages: expected one of them")
    if "messages" in found:
        _check_messages(found["messages"])
    elif not isinstance(found["prompt"], (str, list)):
        raise PromptError(f"the prompt is {found['prompt']!r}: expected text or token ids")
    if not isinstance(found.get("options", {}), dict):
        raise OptionError(f"options are {found['options']!r}: expected an object of names and values")
    return found


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
        raise PromptError("messages are no list of objects: expected at least one, with role and content")
    for item in messages:
        if not isinstance(item.get("role"), str) or "content" not in item:
            raise PromptError(f"a message is {item!r}: expected role and content")


def _replaced_by(options: Mapping[str, Any]) -> set[str]:
    """Options of the command line that some of a line stand instead of."""
    return {name for pair in _RIVALS if any(name in options for name in pair) for name in pair}
