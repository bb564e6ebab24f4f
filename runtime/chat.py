"""Chat templates: a bundle's own Jinja template, rendered by minijinja, which runs no code of the template's author."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import minijinja

from .bundle import Bundle
from .errors import BundleError, PromptError

TEMPLATE_FILE = "chat_template.jinja"
Message = Mapping[str, Any]  # "role" and "content"


class ChatTemplate:
    """Renders messages to the text that a chat model was trained to continue."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]):
        self._source = source
        self._special_tokens = dict(special_tokens)
        self._environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True)
        self._environment.add_filter("tojson", _to_json)
        self._environment.add_global("raise_exception", _raise)
        self._environment.add_global("strftime_now", lambda form: datetime.now().strftime(form))

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> ChatTemplate:
        """The template that came with the model.

        Raises:
            PromptError: it has none.
        """
        config = bundle.read_json("tokenizer_config.json")
        if TEMPLATE_FILE in bundle.manifest.files:
            source = (bundle.directory / TEMPLATE_FILE).read_text(encoding="utf-8")
        else:
            source = _inline_template(config.get("chat_template"))
        if not source:
            raise PromptError(
                f"{bundle.directory} has no chat template: it is no chat model; give the prompt as plain text"
            )
        tokens = {name: _token_text(config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        return cls(source, {name: text for name, text in tokens.items() if text is not None})

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The prompt for messages such as `[{"role": "user", "content": "Hello"}]`.

        Args:
            messages: the turns so far; the template may put a system prompt of its own before them.
            add_generation_prompt: end with the beginning of the assistant's turn.
            variables: others that the template knows, `tools` for instance.

        Raises:
            PromptError: the messages are not what the template takes, in its own words.
        """
        try:
            return self._environment.render_str(
                self._source,
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
                **variables,
            )
        except (minijinja.TemplateError, _RefusalError) as error:
            text = str(error).splitlines()[0]
            raise PromptError(f"the chat template refuses these messages ({text}): check roles and order") from error


def _inline_template(value: Any) -> str:
    """`chat_template` of tokenizer_config.json: a text, or a list of named ones."""
    if isinstance(value, list):
        named = {str(item.get("name")): str(item.get("template")) for item in value if isinstance(item, dict)}
        return named.get("default", "")
    return str(value) if value else ""


def _token_text(value: Any) -> str | None:
    """A special token in tokenizer_config.json: its text, or an object with the text as `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise BundleError(f"tokenizer_config.json gives a special token as {value!r}: expected a text")
    return value


def _to_json(value: Any, indent: int | None = None) -> str:
    """As transformers' filter: JSON without escaping for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


class _RefusalError(Exception):
    """What a template says by `raise_exception`."""


def _raise(message: str) -> None:
    raise _RefusalError(message)
