"""The environment that has PyTorch and transformers: two peers run in it, and others' converters do."""

from __future__ import annotations

from ..environments import Environment
from ..workspace import Workspace

NAME = "optimum"
# PyTorch by version: an unpinned one may bring gigabytes of GPU libraries. optimum-onnx chooses transformers.
REQUIREMENTS = ("torch==2.13.0", "optimum-onnx[onnxruntime]", "onnxruntime", "transformers")


def converters(workspace: Workspace, *requirements: str) -> Environment:
    """The environment with some more packages that convert models there.

    Raises:
        UnavailableError: one can't be installed.
    """
    environment = workspace.environment(NAME)
    environment.ensure((*REQUIREMENTS, *requirements))
    return environment
