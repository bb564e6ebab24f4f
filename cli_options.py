"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

import click

from .loading import DEFAULT_MODEL
from .runtime.settings import AUTO, PROVIDER_LOG, SessionSettings
from .terminal import HouseCommand, byte_size, notes_of

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


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
    """All that says how a bundle is loaded: the command is given `settings` and `memory_limit`.

    Where `auto` chose the provider, a line on stderr tells which and why, once.
    """

    @wraps(command)
    def telling(*arguments: Any, settings: SessionSettings, **rest: Any) -> Any:
        with notes_of(PROVIDER_LOG) if settings.provider == AUTO else nullcontext():
            return command(*arguments, settings=settings, **rest)

    options = (
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            metavar="N",
            help="Threads; otherwise the physical cores within the CPU quota.",
        ),
        click.option("--low-power", is_flag=True, help="Half as many threads, and no spinning of those that wait."),
        click.option("--cuda-graph", is_flag=True, help="Record a decode step on a CUDA device, and replay it."),
    )
    limit = click.option(
        "--memory-limit",
        callback=byte_size,
        metavar="SIZE",
        help="Refuse to need more than this for weights and cache: 500MB, 2GiB.",
    )
    decorated: Decorated = _with_settings(limit(telling), (*_DEVICE_OPTIONS, *options))
    return decorated


def device_options(command: Decorated) -> Decorated:
    """What says where a bundle runs: the command is given `settings`."""
    decorated: Decorated = _with_settings(command, _DEVICE_OPTIONS)
    return decorated


def _with_settings(command: Any, options: tuple[Callable[[Any], Any], ...]) -> Any:
    """Add options, and put their values into one `SessionSettings`."""
    names = {field.name for field in fields(SessionSettings)}

    @wraps(command)
    def settled(*arguments: Any, **values: Any) -> Any:
        given = {name: values.pop(name) for name in names & values.keys()}
        return command(*arguments, settings=SessionSettings(**given), **values)

    result: Any = settled
    for option in reversed(options):
        result = option(result)
    return result


def _key_values(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """A click callback: what `KEY=VALUE`, repeated, says."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not of the form KEY=VALUE")
        if key in found:
            raise click.BadParameter(f"{key} was given twice")
        found[key] = value
    return found


_DEVICE_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--provider", default=AUTO, show_default=True, metavar="NAME", help="Where to run: auto, cpu, cuda or dml."
    ),
    click.option("--device", type=click.IntRange(min=0), metavar="N", help="The device's number, with cuda or dml."),
    click.option(
        "--provider-option",
        "provider_options",
        multiple=True,
        callback=_key_values,
        metavar="KEY=VALUE",
        help="An option of ONNX Runtime's for cuda or dml. Repeat it.",
    ),
    click.option(
        "--allow-fallback", is_flag=True, help="Run even where the device lacks kernels for many nodes of the graph."
    ),
)


def json_option(command: Decorated) -> Decorated:
    """`--json`: figures for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def lora_option(command: Decorated) -> Decorated:
    """`--lora`: adapters to merge, in their order."""
    return click.option(
        "--lora",
        multiple=True,
        metavar="DIR[=SCALE]",
        help="Merge an adapter in PEFT's layout, scaled if asked; may be repeated.",
    )(command)


def comparing_options(command: Decorated) -> Decorated:
    """`--plot`, `--tokens`, `--window`, `--stride`: how two models are compared on a text."""
    count: dict[str, Any] = {"type": click.IntRange(min=1), "metavar": "N"}
    options = (
        click.option("--plot", metavar="FILE.png", help="Draw layer errors, and KL along the text, with --against."),
        click.option("--tokens", **count, help="Tokens to read with --against; otherwise 4096."),
        click.option(
            "--window", **count, help="Tokens read as one text; otherwise the context, and 512 at most with --against."
        ),
        click.option(
            "--stride",
            **count,
            help="From one window's beginning to the next one's; with --against otherwise the window.",
        ),
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
