"""GenerationConfig: the options of generation, with Hugging Face's names and meanings."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import OptionError
from .option_checks import (
    Check,
    boolean,
    choice,
    early_stop,
    number,
    one_token,
    sequence_biases,
    start_and_factor,
    texts,
    token_biases,
    token_ids,
    token_sequences,
    whole,
)
from .random import SEED_LIMIT

_share = number("from 0 to 1", lambda value: 0 <= value <= 1)
_share_above_0 = number("above 0 and at most 1", lambda value: 0 < value <= 1)
_cutoff = number("of 0 or more and below 1", lambda value: 0 <= value < 1)
_any_number = number("")


def _option(default: Any, text: str, check: Check, *, needs: tuple[str, ...] = ()) -> Any:
    """A field with its help, its check, and what it needs to have an effect (keys of _NEEDS).

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
    min_new_tokens: int | None = _option(
        None, "Let no end token come before so many new tokens.", whole(0), needs=("end",)
    )
    min_length: int | None = _option(
        None, "The same in all, the prompt's tokens included (instead of min_new_tokens).", whole(0), needs=("end",)
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
        "When the context is full: stop, or slide (the oldest half is dropped and the rest read again).",
        choice("stop", "slide"),
    )
    context_keep: int = _option(0, "The prompt's first tokens that sliding never drops.", whole(0), needs=("sliding",))
    logprobs: int = _option(0, "Tell this many of the likeliest tokens at each step.", whole(0))
    prompt_logprobs: bool = _option(False, "Tell log-probabilities of the prompt's tokens too.", boolean)

    do_sample: bool = _option(False, "Sample; without it the likeliest token is taken (greedy).", boolean)
    seed: int | None = _option(
        None,
        "Repeats a sampled text; without it one is drawn and reported.",
        whole(0, below=SEED_LIMIT, limit="2**64"),
        needs=("sampling",),
    )
    num_return_sequences: int = _option(
        1,
        "How many sequences to sample, or of its beams to give, for each prompt.",
        whole(1),
        needs=("several sequences",),
    )

    num_beams: int = _option(
        1, "Beam search: so many texts grow side by side, to find the likeliest as a whole.", whole(1)
    )
    length_penalty: float = _option(
        1.0,
        "Above 0 favours longer beams: scores are divided by length to this power.",
        number("from -5 to 5", lambda value: -5 <= value <= 5),
        needs=("beams",),
    )
    early_stopping: bool | str = _option(
        False,
        "Whether beam search ends with as many texts as beams, or goes on while a better one is likely (false) or "
        "possible (never).",
        early_stop,
        needs=("beams",),
    )
    num_beam_groups: int = _option(1, "Diverse beams: the beams form so many groups.", whole(1), needs=("beams",))
    diversity_penalty: float = _option(
        0.0,
        "How much less likely a token is for each beam of an earlier group that chose it.",
        number("from 0 to a million", lambda value: 0 <= value <= 1_000_000),
        needs=("beams", "groups"),
    )

    prompt_lookup_num_tokens: int | None = _option(
        None,
        "Guess up to so many tokens by how earlier text went on, and check them at once: the same text, faster where "
        "it repeats something.",
        whole(1),
    )
    max_matching_ngram_size: int = _option(
        3, "How many of the last tokens prompt lookup looks up at most.", whole(1), needs=("prompt lookup",)
    )
    num_assistant_tokens: int = _option(
        20, "How many tokens an assistant drafts at most before they are checked.", whole(1)
    )

    temperature: float = _option(
        1.0,
        "Divides the logits when sampling; 0 means greedy.",
        number("0 or more, and at least 0.000001 where it is not 0", lambda value: value == 0 or value >= 1e-6),
        needs=("sampling",),
    )
    top_k: int = _option(50, "Sample among the k likeliest tokens; 0: among all.", whole(0), needs=("sampling",))
    top_p: float = _option(
        1.0,
        "Sample among the likeliest tokens that together reach this probability.",
        _share_above_0,
        needs=("sampling",),
    )
    min_p: float = _option(
        0.0, "Sample among tokens at least this times as likely as the likeliest.", _share, needs=("sampling",)
    )
    typical_p: float = _option(
        1.0,
        "Sample among tokens about as surprising as is to be expected, that together reach this probability.",
        _share_above_0,
        needs=("sampling",),
    )
    epsilon_cutoff: float = _option(
        0.0, "Sample among tokens of at least this probability.", _cutoff, needs=("sampling",)
    )
    eta_cutoff: float = _option(
        0.0, "The same, with a lower bound where many tokens are about as likely.", _cutoff, needs=("sampling",)
    )
    xtc_probability: float = _option(
        0.0, "How often to exclude the top choices (XTC), from 0 to 1.", _share, needs=("sampling",)
    )
    xtc_threshold: float = _option(
        0.1,
        "What XTC excludes: tokens of at least this probability, but the least likely of them.",
        number("from 0 to 0.5, above which no two tokens can be", lambda value: 0 <= value <= 0.5),
        needs=("sampling", "xtc_probability"),
    )

    repetition_penalty: float = _option(
        1.0,
        "Above 1, makes tokens that occurred already less likely.",
        number("above 0", lambda value: value > 0),
    )
    presence_penalty: float = _option(
        0.0, "Subtracted from the logits of tokens that are in the new text.", _any_number
    )
    frequency_penalty: float = _option(0.0, "The same, once for each time that they are there.", _any_number)
    no_repeat_ngram_size: int = _option(0, "Let no sequence of so many tokens come twice; 0: any may.", whole(0))
    dry_multiplier: float = _option(
        0.0,
        "Strength of DRY, which makes it unlikely to go on with a repetition; 0: off.",
        number("0 or more", lambda value: value >= 0),
    )
    dry_base: float = _option(
        1.75,
        "How fast DRY's penalty grows with a repetition's length.",
        number("of at least 1", lambda value: value >= 1),
        needs=("dry_multiplier",),
    )
    dry_allowed_length: int = _option(
        2, "How many repeated tokens DRY lets pass before it acts.", whole(0), needs=("dry_multiplier",)
    )
    dry_penalty_last_n: int = _option(
        -1,
        "How many of the last tokens DRY looks at; -1: all.",
        whole(1, or_else=-1),
        needs=("dry_multiplier",),
    )
    dry_sequence_breakers: tuple[str, ...] = _option(
        ("\n", ":", '"', "*"), "Text at which a repetition ends for DRY.", texts, needs=("dry_multiplier",)
    )

    bad_words: tuple[str, ...] = _option(
        (), "Text that is never written, as the tokenizer writes it with and without a space before it.", texts
    )
    bad_words_ids: tuple[tuple[int, ...], ...] = _option(
        (), "Token ids that never come one after the other.", token_sequences, needs=("not an end",)
    )
    suppress_tokens: tuple[int, ...] = _option((), "A token id that never comes.", token_ids)
    begin_suppress_tokens: tuple[int, ...] = _option((), "A token id that never comes first.", token_ids)
    logit_bias: tuple[tuple[int, float], ...] = _option((), "Added to the logit of a token id.", token_biases)
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = _option(
        (), "Added to the logit of the last of several token ids, after the others.", sequence_biases
    )
    forced_bos_token_id: int | None = _option(None, "The token id that comes first.", one_token)
    forced_eos_token_id: tuple[int, ...] = _option(
        (), "The token id that comes last, where the limit ends the text.", token_ids
    )
    exponential_decay_length_penalty: tuple[int, float] | None = _option(
        None,
        "From so many new tokens on, make end tokens likelier by this factor for each further one.",
        start_and_factor,
        needs=("end",),
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
                hint = (
                    f"did you mean {near[0]}?"
                    if near
                    else "expected a field of GenerationConfig, which generate --help lists"
                )
                raise OptionError(f"unknown option {name!r}: {hint}")
        given = {name: value for name, value in options.items() if value is not None}
        if "max_length" in given and "max_new_tokens" in given:
            raise OptionError("max_length and max_new_tokens both given: expected one of them; leave one out")
        if "min_length" in given and "min_new_tokens" in given:
            raise OptionError("min_length and min_new_tokens both given: expected one of them; leave one out")
        inherited = {name: value for name, value in defaults.items() if name in known and value is not None}
        if "max_new_tokens" in given or ("max_new_tokens" in inherited and "max_length" not in given):
            inherited.pop("max_length", None)
        elif "max_length" in given:
            inherited.pop("max_new_tokens", None)
        for one, other in (("min_length", "min_new_tokens"), ("min_new_tokens", "min_length")):
            if one in given:
                inherited.pop(other, None)
        config = cls(**(inherited | given))
        config._refuse_without_effect(given)
        config._refuse_contradictions(given)
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
            for need in item.metadata["needs"] if item.name in given else ():
                if reason := _NEEDS[need](self, item.name):
                    raise OptionError(reason)

    def _refuse_contradictions(self, given: Mapping[str, Any]) -> None:
        if self.num_beams > 1:
            _refuse_wrong_beams(self)
        limits = (("min_new_tokens", "max_new_tokens", self.max_length is None), ("min_length", "max_length", True))
        for low, high, applies in limits:
            least, most = getattr(self, low), getattr(self, high)
            if applies and low in given and None not in (least, most) and least > most:
                raise OptionError(
                    f"{low} is {least} and {high} {most}: expected {low} to be no more; change one of them"
                )


def _sampling(config: GenerationConfig, name: str) -> str:
    if not config.is_greedy or (name == "temperature" and config.temperature == 0):
        return ""
    return f"{name} has no effect {_why_greedy(config)}: sample, or leave {name} out"


def _several_sequences(config: GenerationConfig, name: str) -> str:
    if not config.is_greedy or config.num_return_sequences == 1 or config.num_beams > 1:
        return ""
    return (
        f"num_return_sequences is {config.num_return_sequences} {_why_greedy(config)}: "
        "the sequences would be the same; sample, give num_beams, or leave it out"
    )


def _beams(config: GenerationConfig, name: str) -> str:
    if config.num_beams > 1:
        return ""
    return f"{name} has no effect without beams: give num_beams of 2 or more, or leave {name} out"


def _groups(config: GenerationConfig, name: str) -> str:
    if config.num_beam_groups > 1:
        return ""
    return f"{name} has no effect on a single group of beams: give num_beam_groups, or leave {name} out"


def _refuse_wrong_beams(config: GenerationConfig) -> None:
    beams, groups = config.num_beams, config.num_beam_groups
    if config.num_return_sequences > beams:
        raise OptionError(
            f"num_return_sequences is {config.num_return_sequences} and num_beams {beams}: expected at most as many "
            "sequences as beams; change one of them"
        )
    if config.context_end == "slide":
        raise OptionError('context_end is "slide" with num_beams: beams end where the context does; use "stop"')
    if groups == 1:
        return
    if beams % groups:
        raise OptionError(
            f"num_beams is {beams} and num_beam_groups {groups}: expected groups of one size; "
            "let num_beams be a multiple of num_beam_groups"
        )
    if not config.is_greedy:
        raise OptionError(
            "num_beam_groups with do_sample: groups of beams are searched, not sampled; give do_sample=False, or leave "
            "num_beam_groups out"
        )
    if not config.diversity_penalty:
        raise OptionError(
            "num_beam_groups without diversity_penalty: the groups would find the same texts; give a diversity_penalty "
            "above 0, or leave num_beam_groups out"
        )


def _prompt_lookup(config: GenerationConfig, name: str) -> str:
    if config.prompt_lookup_num_tokens is not None:
        return ""
    return f"{name} has no effect without prompt lookup: give prompt_lookup_num_tokens, or leave {name} out"


def _sliding(config: GenerationConfig, name: str) -> str:
    if config.context_end == "slide":
        return ""
    return f'{name} has no effect without context_end="slide": let the context slide, or leave {name} out'


def _why_greedy(config: GenerationConfig) -> str:
    return "without do_sample=True" if not config.do_sample else "with temperature 0, which means greedy"


def _end(config: GenerationConfig, name: str) -> str:
    if config.eos_token_id:
        return ""
    return f"{name} has no effect without end tokens: give eos_token_id, or leave {name} out"


def _not_an_end(config: GenerationConfig, name: str) -> str:
    ends = {(token,) for token in config.eos_token_id}.intersection(config.bad_words_ids)
    if not ends:
        return ""
    return f"{name} holds the end token {min(ends)[0]}, which ends the text: use suppress_tokens or min_new_tokens"


def _switched_on_by(switch: str) -> _Need:
    def need(config: GenerationConfig, name: str) -> str:
        if getattr(config, switch):
            return ""
        return f"{name} has no effect without {switch}, which is 0: give {switch}, or leave {name} out"

    return need


# What an option needs to have an effect: a function of the config and the option's name that gives the refusal, or "".
_Need = Callable[[GenerationConfig, str], str]
_NEEDS: dict[str, _Need] = {
    "sampling": _sampling,
    "several sequences": _several_sequences,
    "beams": _beams,
    "groups": _groups,
    "prompt lookup": _prompt_lookup,
    "sliding": _sliding,
    "end": _end,
    "not an end": _not_an_end,
    "dry_multiplier": _switched_on_by("dry_multiplier"),
    "xtc_probability": _switched_on_by("xtc_probability"),
}
