"""Other runtimes in environments of their own, which ONNXGPT_PEERS names; what they make, and what they answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
VARIABLE = "ONNXGPT_PEERS"
TEXT = "Once upon a time there was a"
NEW_TOKENS = 32
TINY = ("gpt2", "gpt_neox", "opt", "llama")


@dataclass(frozen=True)
class Answer:
    """What a runtime made of TEXT: token ids of the prompt, and the new ones before an end of text."""

    prompt: list[int]
    new: list[int]


class Peers:
    """Runs Python in the environments `optimum` and `genai`."""

    def __init__(self, directory: Path):
        self._directory = directory

    def run(self, environment: str, *arguments: object) -> str:
        """What a run of an environment's interpreter writes to stdout."""
        folder = "Scripts" if os.name == "nt" else "bin"
        outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            [self._directory / environment / folder / "python", *map(str, arguments)],
            capture_output=True,
            encoding="utf-8",
            env=outside | {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"},
        )
        assert done.returncode == 0, f"{environment}: {done.stderr[-2000:]}"
        return done.stdout

    def optimum(self, *folders: Path) -> list[Answer]:
        """Of ORTModelForCausalLM."""
        return _answers(self.run("optimum", HERE / "in_optimum.py", "generate", TEXT, NEW_TOKENS, *folders))

    def genai(self, *folders: Path) -> list[Answer]:
        """Of onnxruntime-genai."""
        return _answers(self.run("genai", HERE / "in_genai.py", TEXT, NEW_TOKENS, *folders))


def ours(folder: Path) -> Answer:
    """Of this runtime."""
    import onnxgpt

    model = onnxgpt.load(folder, threads=2)
    completion = model.generate(TEXT, do_sample=False, max_new_tokens=NEW_TOKENS)[0]
    new = completion.token_ids[:-1] if completion.finish_reason == "eos" else completion.token_ids
    return Answer(model.tokenizer.encode(TEXT), list(new))


def _answers(lines: str) -> list[Answer]:
    return [Answer(**json.loads(line)) for line in lines.splitlines() if line.startswith('{"prompt"')]


@pytest.fixture(scope="session")
def peers() -> Peers:
    directory = os.environ.get(VARIABLE)
    if not directory:
        pytest.skip(
            f"{VARIABLE} names no directory with the environments of optimum and onnxruntime-genai: see .ci/run"
        )
    return Peers(Path(directory))


@pytest.fixture(scope="session")
def tiny(peers: Peers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints, `TINY`."""
    directory = tmp_path_factory.mktemp("tiny")
    peers.run("optimum", HERE / "in_optimum.py", "make", directory)
    return directory


@pytest.fixture(scope="session")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 as a checkpoint of Hugging Face, float32, which the peers export."""
    sys.path.append(str(HERE.parents[1] / "benchmarks"))
    from compare.weights import write_hugging_face

    from onnxgpt.models.catalog import pull
    from onnxgpt.models.checkpoint import open_checkpoint

    pull("smollm2-135m-instruct")
    directory = tmp_path_factory.mktemp("smol") / "smollm2"
    write_hugging_face(open_checkpoint("smollm2-135m-instruct"), directory)
    return directory
