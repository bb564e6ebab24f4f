"""examples/python_bare gives the vectors' greedy texts, with nothing of onnxgpt loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "models" / "fairytale" / "bundle"
PROGRAM = ROOT / "examples" / "python_bare" / "run.py"


def test_it_gives_the_greedy_texts_of_the_vectors(package: Path) -> None:
    texts = json.loads((package / "vectors.json").read_text(encoding="utf-8"))["texts"]
    plain = {"do_sample", "max_new_tokens", "eos_token_id"}
    cases = [case for case in texts if not case["options"]["do_sample"] and case["options"].keys() <= plain]
    program = (
        "import json, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import run\n"
        "cases = json.load(sys.stdin)\n"
        "found = [run.generate(Path(sys.argv[2]), ids, limit, tuple(ends)) for ids, limit, ends in cases]\n"
        "assert not any(name.startswith('onnxgpt') for name in sys.modules)\n"
        "print(json.dumps(found))"
    )
    asked = [
        (case["prompt_ids"], case["options"]["max_new_tokens"], [case["options"].get("eos_token_id", 0)])
        for case in cases
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, str(PROGRAM.parent), str(BUNDLE)],
        input=json.dumps(asked),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr

    assert len(cases) >= 3
    assert json.loads(done.stdout) == [case["ids"] for case in cases]


def test_the_program_writes_text() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(BUNDLE), "Once upon a time"],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" there was a king who was so much beloved by his subjects")
