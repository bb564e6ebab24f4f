"""examples/cpp compiles without a warning and gives the vectors' greedy texts."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "models" / "fairytale" / "bundle"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, linked with the library of the installed onnxruntime; ONNXGPT_ORT_INCLUDE names the headers."""
    include = os.environ.get("ONNXGPT_ORT_INCLUDE")
    lacking = "no ONNXGPT_ORT_INCLUDE, the directory of onnxruntime_cxx_api.h" if include is None else None
    if shutil.which("cmake") is None or shutil.which("g++") is None:
        lacking = "no cmake and g++ here"
    if lacking:
        (pytest.fail if os.environ.get("ONNXGPT_NO_SKIP") else pytest.skip)(lacking)
    build = tmp_path_factory.mktemp("cpp")
    spec = importlib.util.find_spec("onnxruntime")
    library = next((Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*"))
    shutil.copyfile(library, build / "libonnxruntime.so.1")  # the name that the library gives itself
    arguments = [f"-DONNXRUNTIME_INCLUDE={include}", f"-DONNXRUNTIME_LIBRARY={build / 'libonnxruntime.so.1'}"]
    for command in (["-S", str(ROOT / "examples" / "cpp"), "-B", str(build), *arguments], ["--build", str(build)]):
        done = subprocess.run(["cmake", *command], capture_output=True, encoding="utf-8", timeout=170)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "run"


def test_it_gives_the_greedy_texts_of_the_vectors(program: Path, package: Path) -> None:
    texts = json.loads((package / "vectors.json").read_text(encoding="utf-8"))["texts"]
    plain = {"do_sample", "max_new_tokens", "eos_token_id"}
    cases = [case for case in texts if not case["options"]["do_sample"] and case["options"].keys() <= plain]

    assert len(cases) >= 3
    for case in cases:
        limit, end = case["options"]["max_new_tokens"], case["options"].get("eos_token_id", 0)
        command = [program, BUNDLE, limit, end, *case["prompt_ids"]]
        done = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", timeout=60)
        assert done.stderr == ""
        assert list(map(int, done.stdout.split())) == case["ids"]


def test_it_says_what_is_wrong(program: Path, tmp_path: Path) -> None:
    nothing = subprocess.run([program], capture_output=True, encoding="utf-8", timeout=60)
    missing = subprocess.run([program, tmp_path, "5", "0", "1"], capture_output=True, encoding="utf-8", timeout=60)

    assert (nothing.returncode, nothing.stderr) == (2, "usage: run BUNDLE NEW_TOKENS END_ID PROMPT_ID...\n")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ")
    assert "model.onnx" in missing.stderr
