"""Help reads well at 80 columns, and every option of generation has its flag."""

from __future__ import annotations

from dataclasses import fields

import click
import pytest
from click.testing import CliRunner

from onnxgpt.cli import onnxgpt
from onnxgpt.cli_options import given_options
from onnxgpt.runtime.config import GenerationConfig

PAGES = [[], *([name] for name in onnxgpt.commands)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: " ".join(page) or "onnxgpt")
def test_help_fits_80_columns_and_is_whole(page: list[str]) -> None:
    result = CliRunner().invoke(onnxgpt, [*page, "--help"], terminal_width=80)

    assert result.exit_code == 0
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert "..." not in result.stdout.replace("[ARGS]...", "")  # no summary was cut


@pytest.mark.parametrize("name", [name for name in onnxgpt.commands if name != "models"])
def test_every_command_shows_an_example_of_itself(name: str) -> None:
    result = CliRunner().invoke(onnxgpt, [name, "--help"])

    assert f"onnxgpt {name}" in result.stdout.split("\n", 1)[1].split("Options:")[0]


def test_every_option_of_generation_has_a_flag() -> None:
    by_name = {parameter.name: parameter for parameter in onnxgpt.commands["generate"].params}

    for field in fields(GenerationConfig):
        option = by_name[field.name]
        assert isinstance(option, click.Option)
        assert option.help
        assert option.help.startswith(field.metadata["help"])


def test_only_what_the_user_gave_reaches_the_model() -> None:
    seen = {}

    @click.command(params=onnxgpt.commands["generate"].params)
    def catch(**values: object) -> None:
        seen.update(given_options(values))

    arguments = (
        "hello --no-do-sample --temperature 0 --top-k 0 --stop-string a --stop-string b --eos-token-id 0 --seed 0"
    )
    CliRunner().invoke(catch, arguments.split(), catch_exceptions=False)

    assert seen == {
        "do_sample": False,
        "temperature": 0.0,
        "top_k": 0,
        "stop_strings": ("a", "b"),
        "eos_token_id": (0,),
        "seed": 0,
    }
