"""What a model reads while it is calibrated: plain text, and conversations where it is a chat model."""

from __future__ import annotations

from itertools import cycle

import numpy as np

from ..runtime.bundle import Bundle
from ..runtime.chat import ChatTemplate
from ..runtime.errors import PromptError
from ..runtime.tokenizer import Tokenizer
from .text_files import EvaluationText, TokenIds, windows

_WINDOW = 512  # tokens
_PLAIN_TOKENS = 4096
_CONVERSATIONS = 4  # windows


def calibration_windows(bundle: Bundle, text: EvaluationText) -> list[TokenIds]:
    """Windows of a text for a bundle's model, int64 [512] each, or the context's length where that is shorter.

    A chat model also reads the text's paragraphs as turns of conversations: the tokens between turns are followed by
    activations that plain text never shows.

    Raises:
        OptionError: the text is shorter than one window.
    """
    tokenizer = Tokenizer(bundle.tokenizer_path)
    window = min(_WINDOW, bundle.manifest.context_length)
    plain = windows(text.ids(tokenizer), window, max(_PLAIN_TOKENS, window))
    return plain + _conversations(bundle, tokenizer, text, window)


def refuse_short(bundle: Bundle, text: EvaluationText) -> None:
    """Raise OptionError for a text that has not one window for a bundle's model."""
    window = min(_WINDOW, bundle.manifest.context_length)
    windows(text.ids(Tokenizer(bundle.tokenizer_path)), window, max(_PLAIN_TOKENS, window))


def _conversations(bundle: Bundle, tokenizer: Tokenizer, text: EvaluationText, window: int) -> list[TokenIds]:
    """Conversations cut to one window each; none for a model without chat template, or whose template wants more."""
    paragraphs = [paragraph.strip() for paragraph in text.content.split("\n\n") if paragraph.strip()]
    found: list[TokenIds] = []
    try:
        template = ChatTemplate.of_bundle(bundle)
        source = cycle(paragraphs[len(paragraphs) // 2 :])
        for _ in range(_CONVERSATIONS):
            turns: list[dict[str, str]] = []
            ids: list[int] = []
            while len(ids) < window:
                turns += [{"role": "user", "content": next(source)}, {"role": "assistant", "content": next(source)}]
                rendered = template.render(turns, add_generation_prompt=False)
                ids = tokenizer.encode(rendered, add_special_tokens=False)
            found.append(np.array(ids[:window], np.int64))
    except PromptError:
        return found
    return found
