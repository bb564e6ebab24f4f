"""Options that several commands share; those of generation are made from GenerationConfig's own fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, TypeVar

import click

from .loading import DEFAULT_MODEL
from .runtime.config import GenerationConfig
from .terminal import HouseCommand, byte_size

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class _Form(click.ParamType):
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
    """A command with options of generation, whose `--early-stopping` may stand alone or before `never`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give switches that stand alone their word; click would take whatever follows, such as the prompt."""
        return super().parse_args(ctx, _with_words(args))


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


def model_option(command: Decorated) -> Decorated:
    """`--model`: a bundle's directory or a catalogue name."""
    return click.option(
        "--model",
        "-m",
        default=DEFAULT_MODEL,
        show_default=True,
        metavar="NAME_OR_DIR",
        help="A bundle's directory, or a bundle that `onnxgpt models` lists.",
    )(command)


def session_options(command: Decorated) -> Decorated:
    """`--provider`, `--threads`, `--memory-limit`: how a bundle is loaded."""
    options = (
        click.option(
            "--provider",
            default="auto",
            show_default=True,
            metavar="NAME",
            help="Where to run: auto, cpu, cuda or dml.",
        ),
        click.option(
            "--threads", type=click.IntRange(min=1), metavar="N", help="Threads; otherwise ONNX Runtime chooses."
        ),
        click.option(
            "--memory-limit",
            callback=byte_size,
            metavar="SIZE",
            help="Refuse to need more than this for weights and cache: 500MB, 2GiB.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def json_option(command: Decorated) -> Decorated:
    """`--json`: figures for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def comparing_options(command: Decorated) -> Decorated:
    """`--plot`, `--tokens`, `--window`, `--stride`: how two models are compared on a text."""
    count: dict[str, Any] = {"type": click.IntRange(min=1), "metavar": "N"}
    options = (
        click.option("--plot", metavar="FILE.png", help="Draw layer errors, and KL along the text."),
        click.option("--tokens", **count, help="Tokens of the text to read; otherwise 4096."),
        click.option("--window", **count, help="Tokens read as one text; otherwise 512, or the context if shorter."),
        click.option("--stride", **count, help="From one window's beginning to the next one's; otherwise the window."),
    )
    for option in reversed(options):
        command = option(command)
    return command


class RecipesCommand(HouseCommand):
    """A command whose help lists the recipes of quantization."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the recipes below the options; they are imported only where help is asked for."""
        from .quantize.recipe import RECIPES

        with formatter.section("Recipes"):
            formatter.write_dl([(recipe.name, recipe.description) for recipe in RECIPES.values()])


def recipe_options(command: Decorated) -> Decorated:
    """Flags for the fields of a recipe; what is not given stays as the recipe has it."""
    blocks: dict[str, Any] = {"metavar": "BITS:BLOCK"}
    options = (
        click.option("--layers", **blocks, help="Bits and block size of matrices in layers: 8:128."),
        click.option("--down", **blocks, help="The same of the last matrix of each MLP."),
        click.option("--head", **blocks, help="The same of the head and the embedding."),
        click.option("--method", metavar="NAME", help="How weights are rounded: gptq or nearest."),
        click.option("--smooth/--no-smooth", default=None, help="Fold outliers of activations into weights."),
        click.option("--kv-cache", metavar="TYPE", help="int8: cache keys and values in 8 bits."),
        click.option("--max-kl", type=float, metavar="X", help="The most mean KL divergence, in nats."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def given_fields(values: dict[str, Any]) -> dict[str, Any]:
    """What the user gave of `recipe_options`, as fields of a recipe.

    Raises:
        OptionError: a block format that is none.
    """
    from .quantize.blocks import BlockFormat

    given = {name: value for name, value in values.items() if value is not None}
    for name in ("layers", "down", "head"):
        if name in given:
            # The embedding's look-up reads symmetric blocks only.
            given[name] = BlockFormat.parse(given[name], symmetric=True if name == "head" else None)
    return given
