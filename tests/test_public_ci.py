"""The public CI file does what README and .ci/run do, on every system, and asks for no more rights than it needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
ROOT = Path(__file__).parents[1]
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
OWN_CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
CI: dict[Any, Any] = yaml.safe_load(WORKFLOW)
SYSTEMS = {"ubuntu", "macos", "windows"}


def readme_block(number: int) -> str:
    """The n-th block of shell commands, counted from 1."""
    return re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[number - 1]


def steps(job: str) -> list[dict[str, Any]]:
    return CI["jobs"][job]["steps"]


def commands(job: str) -> list[str]:
    return [step["run"] for step in steps(job) if "run" in step]


def lines_of_own_ci(title: str) -> list[str]:
    """The commands in .ci/run behind `say "title…"`, one a line, quotes as the inner shell sees them."""
    part = OWN_CI.split(f'say "{title}')[1].split("\nsay ")[0]
    return [line.strip().replace('\\"', '"').replace("\\$", "$") for line in part.splitlines()]


def pythons(job: str) -> list[str]:
    return CI["jobs"][job]["strategy"]["matrix"]["python"]


def all_steps() -> Iterator[dict[str, Any]]:
    for job in CI["jobs"]:
        yield from steps(job)


def test_the_first_command_of_readme_runs_everywhere() -> None:
    assert commands("start") == [readme_block(1), "onnxgpt doctor\n"]


def test_the_second_command_of_readme_runs_everywhere() -> None:
    assert commands("tests")[0] == readme_block(2)


def test_without_the_pins_it_is_the_second_command_too() -> None:
    unpinned = readme_block(2).replace(" -c constraints.txt", "").replace("pytest\n", "pytest tests/runtime\n")

    assert commands("oldest") == [unpinned]


@pytest.mark.parametrize("job", ["start", "tests", "oldest", "wheel"])
def test_three_systems_take_part(job: str) -> None:
    found = CI["jobs"][job]["strategy"]

    assert {name.split("-")[0] for name in found["matrix"]["os"]} == SYSTEMS
    assert all(re.fullmatch(r"\w+-[\d.]+", name) for name in found["matrix"]["os"])  # of a version, not "latest"
    assert CI["jobs"][job]["runs-on"] == "${{ matrix.os }}"
    assert found["fail-fast"] is False


def test_the_oldest_python_and_the_newest_take_part() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=")

    assert pythons("start") == pythons("wheel") == pythons("oldest") + pythons("tests")
    assert pythons("oldest") == [oldest]
    assert all(isinstance(version, str) for version in pythons("start"))  # 3.10 as a number is 3.1


def test_style_and_types_are_checked_as_in_own_ci() -> None:
    [line] = [line for line in lines_of_own_ci("style and types") if "ruff" in line]

    assert commands("tests")[1].strip() == line.split('"')[5]


def test_the_wheel_is_made_and_tried_as_in_own_ci() -> None:
    own = "\n".join(lines_of_own_ci("a wheel"))
    build, trial = commands("wheel")
    _, install, *rest = trial.splitlines()

    assert build.splitlines()[1].replace("dist .", "'$scratch/dist' .") in own
    assert install.replace("../dist", "$scratch/dist") in own
    assert len(rest) == 3
    assert all(line in own for line in rest)


def test_the_examples_run_as_in_own_ci() -> None:
    assert commands("examples")[0].strip() == readme_block(2).split(" && ")[0]
    assert any(commands("examples")[1].strip() in line for line in lines_of_own_ci("Node.js"))


def test_directml_is_installed_in_place_of_the_cpu_build() -> None:
    install, doctor, test = commands("directml")

    assert CI["jobs"]["directml"]["runs-on"].startswith("windows-")
    assert install == readme_block(2).split(" && ")[0].replace("[dev]", "[directml,test]") + "\n"
    assert doctor == "onnxgpt doctor\n"
    assert "-m dml" in test
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert extras["dev"] == ["onnxgpt[cpu,test]"]
    assert not any("cpu" in requirement or "onnxruntime" in requirement for requirement in extras["test"])


def test_every_mark_of_the_tests_is_run_or_left_out_with_a_reason() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    marks = {line.split(":")[0] for line in options["markers"]}
    left_out = set(re.findall(r"^#   (\w+): \S", WORKFLOW, re.MULTILINE))
    run = {mark for step in all_steps() for mark in re.findall(r"-m pytest .*-m (\w+)", step.get("run", ""))}

    assert run | left_out == marks
    assert not run & left_out
    used = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert all(f"mark.{mark}" in used for mark in run)  # pytest fails where a mark selects nothing


def test_commands_are_for_bash_on_every_system() -> None:
    assert CI["defaults"] == {"run": {"shell": "bash"}}
    assert not any("shell" in step for step in all_steps())


def test_it_may_read_the_sources_and_nothing_else() -> None:
    assert CI["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in CI["jobs"].values())
    assert "secrets." not in WORKFLOW
    checkouts = [step for step in all_steps() if step.get("uses", "").startswith("actions/checkout")]
    assert len(checkouts) == len(CI["jobs"])
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)
    # A pull request's title or branch in a command would be run as a part of it.
    assert not any("${{" in step.get("run", "") for step in all_steps())


def test_actions_are_of_one_version_each() -> None:
    used = {step["uses"] for step in all_steps() if "uses" in step}

    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", action) for action in used), used
    assert len({action.split("@")[0] for action in used}) == len(used)


def test_a_newer_push_ends_the_run_before_it() -> None:
    assert CI["concurrency"] == {"group": "${{ github.workflow }}-${{ github.ref }}", "cancel-in-progress": True}
    triggers = CI[True]  # the key `on` is a truth value in YAML 1.1
    assert triggers == {"push": {"branches": ["main"]}, "pull_request": None, "workflow_dispatch": None}


def test_no_job_runs_for_ever() -> None:
    assert all(0 < job["timeout-minutes"] <= 60 for job in CI["jobs"].values())
