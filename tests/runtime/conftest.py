"""The fairy-tale model, opened once."""

import pytest

import onnxgpt


@pytest.fixture(scope="session")
def fairytale(full_bundle):
    """The fairy-tale model in full precision, as its judges compute."""
    return onnxgpt.load(full_bundle.directory, threads=2)
