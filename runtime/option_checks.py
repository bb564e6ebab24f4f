"""Checks of single options: each takes a name and a value, and gives the value in its normal form or refuses it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from .errors import OptionError

Check = Callable[[str, Any], Any]


def boolean(name: str, value: Any) -> bool:
    """True or False, nothing that only reads like it."""
    if not isinstance(value, bool):
        raise OptionError(f"{name} is {value!r}: expected True or False")
    return value


def whole(least: int, *, below: int | None = None, limit: str = "", or_else: int | None = None) -> Check:
    """A whole number of at least `least`, and below `below`, which the message calls `limit`; or `or_else`."""
    otherwise = "" if or_else is None else f", or {or_else}"

    def check(name: str, value: Any) -> int:
        if not isinstance(value, Integral) or isinstance(value, bool) or (int(value) < least and value != or_else):
            raise OptionError(f"{name} is {value!r}: expected a whole number of at least {least}{otherwise}")
        if below is not None and int(value) >= below:
            raise OptionError(f"{name} is {value!r}: expected a whole number below {limit or below}")
        return int(value)

    return check


def number(wanted: str, holds: Callable[[float], bool] = lambda value: True) -> Check:
    """A finite number for which `holds` is true; `wanted` says that in words, after "expected a number"."""

    def check(name: str, value: Any) -> float:
        is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not holds(float(value)):
            raise OptionError(f"{name} is {value!r}: expected a number{wanted and ' ' + wanted}")
        return float(value)

    return check


def choice(*values: str) -> Check:
    """One of some words."""

    def check(name: str, value: Any) -> str:
        if value not in values:
            raise OptionError(f"{name} is {value!r}: expected one of {', '.join(values)}")
        return str(value)

    return check


def early_stop(name: str, value: Any) -> bool | str:
    """True, False or "never"; the command line has them all as words."""
    words: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}
    if isinstance(value, str) and value in words:
        return words[value]
    if not isinstance(value, bool):
        raise OptionError(f'{name} is {value!r}: expected True, False or "never"')
    return value


def texts(name: str, value: Any) -> tuple[str, ...]:
    """A text or a list of them, none of them empty."""
    items = _listed(name, value, str, "a string")
    for item in items:
        if not isinstance(item, str):
            raise OptionError(f"{name} holds {item!r}: expected a string")
        if not item:
            raise OptionError(f"{name} holds an empty string: expected text; leave it out")
    return items


def token_ids(name: str, value: Any) -> tuple[int, ...]:
    """A token id or a list of them."""
    items = _listed(name, value, Integral, "a token id")
    return tuple(_single(f"{name} holds", item) for item in items)


def one_token(name: str, value: Any) -> int:
    """A token id."""
    return _single(f"{name} is", value)


def token_sequences(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """A list of token sequences, none of them empty: [[5], [7, 8]]."""
    return tuple(_sequence(name, item) for item in _listed(name, value))


def token_biases(name: str, value: Any) -> tuple[tuple[int, float], ...]:
    """Biases of tokens: {5: -1.0}, or pairs [[5, -1.0]]."""
    pairs = tuple((_single(f"{name} holds", token), _bias(name, bias)) for token, bias in _pairs(name, value))
    return _distinct(name, pairs)


def sequence_biases(name: str, value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Biases of token sequences: {(5, 6): -1.0}, or pairs [[[5, 6], -1.0]]."""
    pairs = tuple((_sequence(name, tokens), _bias(name, bias)) for tokens, bias in _pairs(name, value))
    return _distinct(name, pairs)


def start_and_factor(name: str, value: Any) -> tuple[int, float]:
    """Two numbers: from which new token on, and by which factor above 0."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise OptionError(f"{name} is {value!r}: expected two numbers, a start and a factor")
    return whole(0)(f"the start of {name}", value[0]), _positive(f"the factor of {name}", value[1])


_positive = number("above 0", lambda value: value > 0)


def _listed(name: str, value: Any, kind: type | None = None, wanted: str = "an item") -> tuple[Any, ...]:
    """A list as a tuple; a single item of `kind` is a list of one."""
    if kind is not None and isinstance(value, kind):
        return (value,)
    if not isinstance(value, (tuple, list)):
        expected = f"{wanted} or a list of them" if kind else "a list"
        raise OptionError(f"{name} is {value!r}: expected {expected}")
    return tuple(value)


def _pairs(name: str, value: Any) -> tuple[tuple[Any, Any], ...]:
    items = tuple(value.items()) if isinstance(value, Mapping) else _listed(name, value)
    for item in items:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise OptionError(f"{name} holds {item!r}: expected pairs of what is biased and its bias")
    return items


def _distinct(name: str, pairs: tuple[Any, ...]) -> tuple[Any, ...]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise OptionError(f"{name} biases the same tokens twice: expected one bias for each")
    return pairs


def _is_token(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def _single(found: str, value: Any) -> int:
    if not _is_token(value):
        raise OptionError(f"{found} {value!r}: expected a token id, a whole number of 0 or more")
    return int(value)


def _sequence(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or not value or not all(_is_token(token) for token in value):
        raise OptionError(f"{name} holds {value!r}: expected a sequence of token ids, at least one")
    return tuple(int(token) for token in value)


def _bias(name: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not float(value) < math.inf:
        raise OptionError(f"{name} holds the bias {value!r}: expected a number, or -inf to forbid")
    return float(value)
