"""Models and golden values that tests of the runtime share; each model is opened once."""

import importlib.util
import sys
from pathlib import Path

import pytest

import onnxgpt

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def fairytale(full_bundle):
    """The fairy-tale model in full precision, as its judges compute."""
    return onnxgpt.load(full_bundle.directory, threads=2)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """The LLaMA of the golden values, exported."""
    from onnxgpt.export import export_bundle

    directory = tmp_path_factory.mktemp("llama")
    source = load_golden("tiny_llama").write_tiny_llama(directory / "source")
    return onnxgpt.load(export_bundle(source, directory / "bundle").directory, threads=1)


def load_golden(name):
    """A module of tests/golden, which are scripts and no package."""
    spec = importlib.util.spec_from_file_location(name, GOLDEN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
