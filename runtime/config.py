"""GenerationConfig: the options of generation, with Hugging Face's names and meanings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import OptionError
from .option_checks import Check, boolean, choice, number, texts, token_ids, whole
from .random import SEED_LIMIT


def _option(default: Any, text: str, check: Check, *, needs: str = "") -> Any:
    """A field with its help, its check, and what it needs to have an effect (a key of _NEEDS).

    None, as Hugging Face's files have it, is the same as leaving the option out.
    """
    return field(default=default, metadata={"help": text, "check": check, "needs": needs})


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How to generate. Frozen; validated once, when made.

    Build one for a call with `GenerationConfig.resolve`, which also refuses options that can have no effect.

    Raises:
        OptionError: an option of the wrong type or out of its range.
    """

    max_new_tokens: int = _option(256, "The most new tokens to generate.", whole(1))
    max_length: int | None = _option(
        None, "The most tokens in all, the prompt's included (instead of max_new_tokens).", whole(1)
    )
    do_sample: bool = _option(False, "Sample; without it the likeliest token is taken (greedy).", boolean)
    temperature: float = _option(
        1.0,
        "Divides the logits when sampling; 0 means greedy.",
        number("0 or more", lambda value: value >= 0),
        needs="sampling",
    )
    top_k: int = _option(50, "Sample among the k likeliest tokens; 0: among all.", whole(0), needs="sampling")
    top_p: float = _option(
        1.0,
        "Sample among the likeliest tokens that together reach this probability.",
        number("above 0 and at most 1", lambda value: 0 < value <= 1),
        needs="sampling",
    )
    min_p: float = _option(
        0.0,
        "Sample among tokens at least this times as likely as the likeliest.",
        number("from 0 to 1", lambda value: 0 <= value <= 1),
        needs="sampling",
    )
    repetition_penalty: float = _option(
        1.0,
        "Above 1, makes tokens that occurred already less likely.",
        number("above 0", lambda value: value > 0),
    )
    stop_strings: tuple[str, ...] = _option((), "End before this text.", texts)
    eos_token_id: tuple[int, ...] = _option((), "End after this token id.", token_ids)
    stop_token_ids: tuple[int, ...] = _option((), "End after this token id too, whatever eos_token_id is.", token_ids)
    max_time: float | None = _option(
        None,
        "End after so many seconds, with the step that is being computed.",
        number("above 0", lambda value: value > 0),
    )
    context_end: str = _option(
        "stop",
        "When the context is full: stop, or slide (drop the oldest half and read the rest again).",
        choice("stop", "slide"),
    )
    context_keep: int = _option(0, "So many first tokens of the prompt are never dropped.", whole(0), needs="sliding")
    logprobs: int = _option(0, "Tell so many of the likeliest tokens at each step.", whole(0))
    prompt_logprobs: bool = _option(False, "Tell log-probabilities of the prompt's tokens too.", boolean)
    num_return_sequences: int = _option(
        1, "How many sequences to sample for the prompt.", whole(1), needs="several sequences"
    )
    seed: int | None = _option(
        None,
        "Repeats a sampled text; without it one is drawn and reported.",
        whole(0, below=SEED_LIMIT, limit="2**64"),
        needs="sampling",
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                value = item.default
            if value is not None:
                value = item.metadata["check"](item.name, value)
            object.__setattr__(self, item.name, value)

    @classmethod
    def resolve(cls, defaults: Mapping[str, Any], options: Mapping[str, Any]) -> GenerationConfig:
        """Merge a bundle's defaults with what the caller gave; only the caller's options are judged for effect.

        Keys of `defaults` that are not options are passed over: `generation_config.json` holds others too.

        Raises:
            OptionError: an unknown option, a value out of range, or a given option that can have no effect.
        """
        known = {item.name for item in fields(cls)}
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(known))}"
                raise OptionError(f"unknown option {name!r}: {hint}")
        given = {name: value for name, value in options.items() if value is not None}
        if "max_length" in given and "max_new_tokens" in given:
            raise OptionError("max_length and max_new_tokens both given: expected one of them; leave one out")
        inherited = {name: value for name, value in defaults.items() if name in known and value is not None}
        if "max_new_tokens" in given or ("max_new_tokens" in inherited and "max_length" not in given):
            inherited.pop("max_length", None)
        elif "max_length" in given:
            inherited.pop("max_new_tokens", None)
        config = cls(**(inherited | given))
        config._refuse_without_effect(given)
        return config

    @property
    def is_greedy(self) -> bool:
        """The likeliest token is taken at every step."""
        return not self.do_sample or self.temperature == 0

    def new_token_limit(self, prompt_length: int, context_length: int) -> int:
        """The most new tokens for a prompt of so many tokens: the option's, cut at the context's end.

        Raises:
            OptionError: `max_length` leaves no room for a new token.
        """
        room = context_length - prompt_length
        if self.max_length is None:
            return min(self.max_new_tokens, room)
        if self.max_length <= prompt_length:
            raise OptionError(
                f"max_length is {self.max_length} and the prompt has {prompt_length} tokens: expected more, "
                "since max_length counts the prompt too; or use max_new_tokens"
            )
        return min(self.max_length - prompt_length, room)

    def _refuse_without_effect(self, given: Mapping[str, Any]) -> None:
        for item in fields(self):
            needs = item.metadata["needs"]
            if needs and item.name in given and (reason := _NEEDS[needs](self, item.name)):
                raise OptionError(reason)


def _sampling(config: GenerationConfig, name: str) -> str:
    if not config.is_greedy or (name == "temperature" and config.temperature == 0):
        return ""
    return f"{name} has no effect {_why_greedy(config)}: sample, or leave {name} out"


def _several_sequences(config: GenerationConfig, name: str) -> str:
    if not config.is_greedy or config.num_return_sequences == 1:
        return ""
    return (
        f"num_return_sequences is {config.num_return_sequences} {_why_greedy(config)}: "
        "the sequences would be the same; sample, or leave it out"
    )


def _sliding(config: GenerationConfig, name: str) -> str:
    if config.context_end == "slide":
        return ""
    return f"{name} has no effect without context_end='slide': let the context slide, or leave {name} out"


def _why_greedy(config: GenerationConfig) -> str:
    return "without do_sample=True" if not config.do_sample else "with temperature 0, which means greedy"


# What an option needs to have an effect: a function of the config and the option's name that gives the refusal, or "".
_NEEDS = {"sampling": _sampling, "several sequences": _several_sequences, "sliding": _sliding}
