"""README says what is true: its commands and programs run, its Chinese twin and .ci/run have the same ones."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onnxgpt.inspecting import families_as_markdown

ROOT = Path(__file__).parents[1]
BASH = shutil.which("bash") or "bash"  # by its path: Windows would look into its own directory before PATH
HAS_SAME_KERNELS = platform.machine().lower() in ("x86_64", "amd64")  # as those that README's text comes from


def blocks(name: str = "README.md") -> list[tuple[str, str]]:
    """The code blocks of a page: language and text, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


COMMANDS = [text for language, text in blocks() if language == "sh"]
INSTALLING, RUNNABLE = COMMANDS[:2], COMMANDS[2:]
QUICK = [text for text in RUNNABLE if "smollm2" not in text and "my-bundle" not in text]
EXPORTING = "".join(text for text in RUNNABLE if "my-bundle" in text)
FETCHING = "".join(text for text in RUNNABLE if "smollm2" in text)


@pytest.fixture
def shell(tmp_path: Path):
    """Run commands as in a clone, with `onnxgpt` on the path; give what they write to stdout."""
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "onnxgpt"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxgpt "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "models" / "fairytale" / "checkpoint", clone / "models" / "fairytale" / "checkpoint")

    def run(commands: str, timeout: float = 300) -> str:
        env = os.environ | {"PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            [BASH, "-euo", "pipefail", "-c", commands],
            cwd=clone,
            env=env,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def output_after(command: str) -> str:
    """The output that README shows after the block that has a command."""
    found = blocks()
    index = next(index for index, (_, text) in enumerate(found) if command in text)
    assert found[index + 1][0] == "text"
    return found[index + 1][1]


@pytest.mark.parametrize("commands", QUICK, ids=lambda text: text.splitlines()[0][:40])
def test_the_quick_commands_run(shell, commands: str) -> None:
    assert shell(commands)


def test_the_first_command_generates(shell) -> None:
    generate = INSTALLING[0].split("&&")[1]

    assert len(shell(generate)) > 20


@pytest.mark.skipif(not HAS_SAME_KERNELS, reason="int8 kernels of another kind of processor round otherwise")
def test_the_text_shown_is_the_text_generated(shell) -> None:
    assert shell(QUICK[0]) == output_after("--seed 11")


def test_the_exporting_commands_run_in_order(shell) -> None:
    assert "the same as torch" in shell(EXPORTING)


@pytest.mark.slow
def test_the_chat_model_answers(shell) -> None:
    assert shell(FETCHING, timeout=900).endswith(output_after("--chat"))


def test_the_program_runs(tmp_path: Path) -> None:
    [program] = [text for language, text in blocks() if language == "python"]
    ending = "\nassert logits.shape == (3, 4096) and str(logits.dtype) == 'float32'\n"
    done = subprocess.run(
        [sys.executable, "-c", program + ending], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert not HAS_SAME_KERNELS or done.stdout.startswith(output_after("--seed 11").removesuffix("\n"))


def test_the_chinese_page_has_the_same_blocks_and_parts() -> None:
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")]

    assert blocks("README.zh-CN.md") == blocks("README.md")
    assert [page.count("\n## ") for page in pages] == [11, 11]
    assert all((ROOT / link).exists() for page in pages for link in re.findall(r"\]\(([^)]+)\)", page))


def test_the_table_of_families_is_the_one_that_the_command_line_prints() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        assert families_as_markdown() in (ROOT / name).read_text(encoding="utf-8"), "see onnxgpt models --markdown"


def test_the_install_commands_are_the_two_that_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

    assert all(command.count("\n") == 1 for command in INSTALLING)
    assert INSTALLING[0].startswith('pip install ".[cpu]" && onnxgpt generate')
    assert INSTALLING[1].endswith("python -m pytest\n")
    assert "readme_block 1" in script
    assert "readme_block 2" in script
