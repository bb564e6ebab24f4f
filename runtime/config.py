"""GenerationConfig: the options of generation, with Hugging Face's names and meanings."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from .errors import OptionError
from .random import SEED_LIMIT


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How to generate. Frozen; validated once, when made.

    Build one for a call with `GenerationConfig.resolve`, which also refuses options that can have no effect.

    Raises:
        OptionError: an option of the wrong type or out of its range.
    """

    max_new_tokens: int = _option(256, "The most new tokens to generate.")
    max_length: int | None = _option(None, "The most tokens in all, the prompt's included (instead of max_new_tokens).")
    do_sample: bool = _option(False, "Sample; without it the likeliest token is taken (greedy).")
    temperature: float = _option(1.0, "Divides the logits when sampling; 0 means greedy.")
    top_k: int = _option(50, "Sample among the k likeliest tokens; 0: among all.")
    top_p: float = _option(1.0, "Sample among the likeliest tokens that together reach this probability.")
    min_p: float = _option(0.0, "Sample among tokens at least this times as likely as the likeliest.")
    repetition_penalty: float = _option(1.0, "Above 1, makes tokens that occurred already less likely.")
    stop_strings: tuple[str, ...] = _option((), "End before this text.")
    eos_token_id: tuple[int, ...] = _option((), "End after this token id.")
    num_return_sequences: int = _option(1, "How many sequences to sample for the prompt.")
    seed: int | None = _option(None, "Repeats a sampled text; without it one is drawn and reported.")

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "stop_strings", _as_tuple("stop_strings", self.stop_strings, str, "a string"))
        set_field(self, "eos_token_id", _as_tuple("eos_token_id", self.eos_token_id, Integral, "a token id"))
        _require_integer("max_new_tokens", self.max_new_tokens, 1)
        if self.max_length is not None:
            _require_integer("max_length", self.max_length, 1)
        if not isinstance(self.do_sample, bool):
            raise OptionError(f"do_sample is {self.do_sample!r}: expected True or False")
        _require_number("temperature", self.temperature, "0 or more", lambda value: value >= 0)
        _require_integer("top_k", self.top_k, 0)
        _require_number("top_p", self.top_p, "above 0 and at most 1", lambda value: 0 < value <= 1)
        _require_number("min_p", self.min_p, "from 0 to 1", lambda value: 0 <= value <= 1)
        _require_number("repetition_penalty", self.repetition_penalty, "above 0", lambda value: value > 0)
        _require_integer("num_return_sequences", self.num_return_sequences, 1)
        if any(not text for text in self.stop_strings):
            raise OptionError("stop_strings holds an empty string: expected text that ends the generation")
        if any(token < 0 for token in self.eos_token_id):
            raise OptionError(f"eos_token_id is {self.eos_token_id}: expected token ids of 0 or more")
        if self.seed is not None:
            _require_integer("seed", self.seed, 0)
            if self.seed >= SEED_LIMIT:
                raise OptionError(f"seed is {self.seed}: expected a whole number below 2**64")

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
        given = dict(options)
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
        if not self.is_greedy:
            return
        reason = "without do_sample=True" if not self.do_sample else "with temperature 0, which means greedy"
        for name in ("temperature", "top_k", "top_p", "min_p", "seed"):
            if name in given and not (name == "temperature" and self.temperature == 0):
                raise OptionError(f"{name} has no effect {reason}: sample, or leave {name} out")
        if self.num_return_sequences > 1 and "num_return_sequences" in given:
            raise OptionError(
                f"num_return_sequences is {self.num_return_sequences} {reason}: the sequences would be the same; "
                "sample, or leave it out"
            )


def _as_tuple(name: str, value: Any, kind: type, wanted: str) -> tuple[Any, ...]:
    items = (value,) if isinstance(value, kind) else () if value is None else value
    if isinstance(items, str) or not isinstance(items, (tuple, list)):
        raise OptionError(f"{name} is {value!r}: expected {wanted} or a list of them")
    for item in items:
        if not isinstance(item, kind) or isinstance(item, bool):
            raise OptionError(f"{name} holds {item!r}: expected {wanted}")
    return tuple(int(item) for item in items) if kind is Integral else tuple(items)


def _require_integer(name: str, value: Any, least: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise OptionError(f"{name} is {value!r}: expected a whole number of at least {least}")


def _require_number(name: str, value: Any, wanted: str, holds: Any) -> None:
    valid = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and holds(value)
    if not valid:
        raise OptionError(f"{name} is {value!r}: expected a number {wanted}")
