"""The embedded model, opened once."""

import pytest

import onnxgpt


@pytest.fixture(scope="session")
def fairytale():
    return onnxgpt.load("fairytale", threads=2)
