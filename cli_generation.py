"""The options of generation on the command line, made from GenerationConfig's own fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any

import click

from .cli_options import Decorated
from .loading import DEFAULT_MODEL, find_bundle
from .runtime.config import GenerationConfig
from .runtime.errors import OnnxGptError
from .terminal import HouseCommand

_MODEL = "onnxgpt.model"  # in a context's meta

# What help shows together.
SECTIONS = {
    "Length and end": (
        "max_new_tokens",
        "max_length",
        "min_new_tokens",
        "min_length",
        "stop_strings",
        "eos_token_id",
        "stop_token_ids",
        "max_time",
    ),
    "Sampling": (
        "do_sample",
        "seed",
        "num_return_sequences",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "xtc_probability",
        "xtc_threshold",
    ),
    "Penalties": (
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "exponential_decay_length_penalty",
        "dry_multiplier",
        "dry_base",
        "dry_allowed_length",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
    ),
    "Constraints": (
        "no_repeat_ngram_size",
        "bad_words",
        "bad_words_ids",
        "suppress_tokens",
        "begin_suppress_tokens",
        "logit_bias",
        "sequence_bias",
        "forced_bos_token_id",
        "forced_eos_token_id",
    ),
    "Beams": (
        "num_beams",
        "length_penalty",
        "early_stopping",
        "num_beam_groups",
        "diversity_penalty",
    ),
    "Speculation": ("prompt_lookup_num_tokens", "max_matching_ngram_size", "num_assistant_tokens"),
    "Context": ("context_end", "context_keep"),
    "Log-probabilities": ("logprobs", "prompt_logprobs"),
}


class _Form(click.ParamType):  # type: ignore[type-arg]  # generic in newer clicks only
    """How an option's value is written on the command line."""

    def __init__(self, metavar: str, parse: Callable[[str], Any]):
        self.name = metavar
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, from its text.

        Raises:
            click.BadParameter: the text is not of this form.
        """
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError:
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)


def _token_ids(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split())


def _biased(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse_pair(text: str) -> tuple[Any, float]:
        what, _, bias = text.partition("=")
        return parse(what), float(bias)

    return parse_pair


# The types of GenerationConfig's fields, as written there, and how their values are written here.
_SINGLE: dict[str, Any] = {
    "int": (int, "N"),
    "float": (float, "X"),
    "str": (str, "TEXT"),
    "tuple[int, float]": ((int, float), "N X"),
}
_REPEATED: dict[str, Any] = {
    "tuple[str, ...]": (str, "TEXT"),
    "tuple[int, ...]": (int, "N"),
    "tuple[tuple[int, ...], ...]": (_Form('"ID ID…"', _token_ids), '"ID ID…"'),
    "tuple[tuple[int, float], ...]": (_Form("ID=BIAS", _biased(int)), "ID=BIAS"),
    "tuple[tuple[tuple[int, ...], float], ...]": (_Form('"ID ID…=BIAS"', _biased(_token_ids)), '"ID ID…=BIAS"'),
}


# Switches that take a word, too; alone they mean the first.
_WORDS = {"bool | str": ("true", "false", "never")}


class GenerationCommand(HouseCommand):
    """A command with options of generation: its help has a section for each kind of them, and a bundle's defaults.

    `--early-stopping` may stand alone or before `never`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give switches that stand alone their word; click would take whatever follows, such as the prompt."""
        ctx.meta[_MODEL] = _named_model(args)
        return super().parse_args(ctx, _with_words(args))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of generation in SECTIONS."""
        defaults = _bundle_defaults(ctx.meta.get(_MODEL, DEFAULT_MODEL))
        records: dict[str, tuple[str, str]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
                flag, text = record
                default = defaults.get(str(parameter.name), "")
                records[str(parameter.name)] = flag, f"{text}  [default: {default}]" if default else text
        sections = {
            title: [records.pop(name) for name in names if name in records] for title, names in SECTIONS.items()
        }
        for title, shown in ({"Options": list(records.values())} | sections).items():
            if shown:
                with formatter.section(title):
                    formatter.write_dl(shown)


def _named_model(arguments: list[str]) -> str:
    """The model that is asked for; what click makes of it is not there yet when it writes help."""
    for index, argument in enumerate(arguments):
        if argument in ("--model", "-m") and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith("--model="):
            return argument.removeprefix("--model=")
    return DEFAULT_MODEL


def _bundle_defaults(model: str) -> dict[str, str]:
    """What applies to a bundle where an option is not given, as help shows it; nothing for what is not there."""
    from .runtime.foreign import open_any  # here, since only help needs it

    try:
        told = open_any(find_bundle(model)).read_json("generation_config.json")
        config = GenerationConfig.resolve(told, {})
    except OnnxGptError:
        config = GenerationConfig()
    return {field.name: _as_shown(getattr(config, field.name)) for field in fields(config)}


def _as_shown(value: Any) -> str:
    if value is None or value is False:
        return ""
    if isinstance(value, tuple):
        return " ".join(json.dumps(item, ensure_ascii=False) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "on" if value is True else str(value)


def _with_words(arguments: list[str]) -> list[str]:
    kinds = {_flag(field): str(field.type) for field in fields(GenerationConfig)}
    result: list[str] = []
    for index, argument in enumerate(arguments):
        if argument == "--":  # what follows are no options
            return result + arguments[index:]
        result.append(argument)
        words = _WORDS.get(kinds.get(argument, ""), ())
        if words and (index + 1 == len(arguments) or arguments[index + 1] not in words):
            result.append(words[0])
    return result


def _flag(field: Field[Any]) -> str:
    return "--" + field.name.replace("_", "-")


def generation_options(command: Decorated) -> Decorated:
    """Add one flag for each field of GenerationConfig, with the field's own help."""
    for field in reversed(fields(GenerationConfig)):
        command = _generation_option(field)(command)
    return command


def given_options(values: dict[str, Any]) -> dict[str, Any]:
    """What the user gave of `generation_options`: the rest is the bundle's to say."""
    names = [field.name for field in fields(GenerationConfig)]
    return {name: values[name] for name in names if values.get(name) not in (None, ())}


def _generation_option(field: Field[Any]) -> Callable[[Decorated], Decorated]:
    flag = _flag(field)
    kind = str(field.type)  # a string, since annotations are postponed there
    text = field.metadata["help"]
    if kind == "bool":
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, help=text)
    if kind in _REPEATED:
        form, metavar = _REPEATED[kind]
        # One value for each flag, so the flag is in the singular: --stop-string.
        singular = flag if flag.endswith("bias") else flag.removesuffix("s")
        return click.option(
            singular, field.name, type=form, metavar=metavar, multiple=True, help=f"{text} Can be repeated."
        )
    if kind in _WORDS:
        words = _WORDS[kind]
        return click.option(flag, type=click.Choice(words), metavar=f"[{'|'.join(words)}]", default=None, help=text)
    form, metavar = _SINGLE[kind.removesuffix(" | None")]
    return click.option(flag, type=form, metavar=metavar, default=None, help=text)


def batch_options(command: Decorated) -> Decorated:
    """`--batch`, `--out`, `--batch-size`, `--force`: many prompts from a file."""
    options = (
        click.option("--batch", metavar="FILE.jsonl", help="Read many prompts from JSON Lines, see above; - is stdin."),
        click.option("--out", metavar="FILE.jsonl", help="Where the results of --batch go, and are gone on with."),
        click.option(
            "--batch-size", type=click.IntRange(min=1), metavar="N", help="Rows of --batch at a time; otherwise 8."
        ),
        click.option("--force", is_flag=True, help="Replace what is at --out."),
    )
    for option in reversed(options):
        command = option(command)
    return command
