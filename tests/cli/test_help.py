"""Help reads well at 80 columns, and every option of generation has its flag."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import onnxgpt as package
from onnxgpt.cli import onnxgpt
from onnxgpt.cli_generation import SECTIONS, given_options
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


def test_options_of_generation_stand_in_sections() -> None:
    """Each option of GenerationConfig in one section, and no other."""
    shown = CliRunner().invoke(onnxgpt, ["generate", "--help"], terminal_width=80).stdout
    by_name = {parameter.name: parameter for parameter in onnxgpt.commands["generate"].params}

    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(
        field.name for field in fields(GenerationConfig)
    )
    sections = dict(re.findall(r"^(\S.*):\n((?:  .*\n?)+)", shown, re.MULTILINE))
    assert list(sections)[-len(SECTIONS) :] == list(SECTIONS)
    for title, names in SECTIONS.items():
        assert all(by_name[name].opts[0] + " " in sections[title] for name in names)


def test_help_shows_what_a_bundle_does_by_default(tmp_path: Path) -> None:
    source = Path(package.__file__).parent / "models" / "fairytale" / "bundle"
    bundle = shutil.copytree(source, tmp_path / "bundle")
    told = json.loads((source / "generation_config.json").read_text(encoding="utf-8"))
    options = json.dumps(told | {"temperature": 0.625, "do_sample": False, "eos_token_id": [5, 7]})
    (bundle / "generation_config.json").write_text(options, encoding="utf-8")
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    manifest["files"]["generation_config.json"]["size"] = len(options)
    (bundle / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")

    def shown(*arguments: str) -> str:
        return " ".join(CliRunner().invoke(onnxgpt, ["generate", *arguments, "--help"]).stdout.split())

    own = f"greedy. [default: {told['temperature']}]"
    assert own in shown()
    assert "(greedy). [default: on]" in shown()
    for named in (["--model", str(bundle)], ["-m", str(bundle)], [f"--model={bundle}"]):
        assert "greedy. [default: 0.625]" in shown(*named)
        assert "(greedy). --seed" in shown(*named)
        assert "[default: 5 7]" in shown(*named)
    assert "greedy. [default: 1]" in shown("--model", str(tmp_path / "nothing"))


def test_options_of_several_numbers_are_written_on_one_line() -> None:
    assert options_given(
        "--bad-words-id 12 --bad-words-id",
        "12 7",
        "--logit-bias 42=-1.5 --logit-bias 3=-inf --sequence-bias",
        "5 6=2",
        "--exponential-decay-length-penalty 20 1.05 --suppress-token 3 --suppress-token 4 --bad-word",
        "a b",
    ) == {
        "bad_words_ids": ((12,), (12, 7)),
        "logit_bias": ((42, -1.5), (3, float("-inf"))),
        "sequence_bias": (((5, 6), 2.0),),
        "exponential_decay_length_penalty": (20, 1.05),
        "suppress_tokens": (3, 4),
        "bad_words": ("a b",),
    }


@pytest.mark.parametrize(
    ("flag", "value", "form"),
    [
        ("--bad-words-id", "a", '"ID ID…"'),
        ("--logit-bias", "42", "ID=BIAS"),
        ("--sequence-bias", "5=x", '"ID ID…=BIAS"'),
    ],
)
def test_a_value_of_another_form_is_refused(flag: str, value: str, form: str) -> None:
    result = CliRunner().invoke(onnxgpt, ["generate", "hello", flag, value])
    assert result.exit_code == 2
    assert f"{value!r} is not of the form {form}" in result.stderr


def options_given(*arguments: str) -> dict[str, object]:
    """What reaches the model of the arguments of `generate`: odd ones are values of their own, others are split."""
    seen: dict[str, object] = {}

    @click.command(params=onnxgpt.commands["generate"].params)
    def catch(**values: object) -> None:
        seen.update(given_options(values))

    split = [part for index, text in enumerate(arguments) for part in ([text] if index % 2 else text.split())]
    result = CliRunner().invoke(catch, ["hello", *split], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen


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
