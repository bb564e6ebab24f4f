"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from .loading import DEFAULT_MODEL
from .terminal import HouseCommand, byte_size

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
