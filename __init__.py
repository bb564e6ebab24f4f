"""onnxgpt: a GPT from PyTorch to ONNX, and text out of ONNX Runtime with no PyTorch there.

>>> import onnxgpt
>>> model = onnxgpt.load("fairytale")
>>> completion, = model.generate("Once upon a time", seed=7, max_new_tokens=40)

Importing this package loads nothing: each public name is imported on its first use (PEP 562).
Nothing is imported at the top, since pytest may load this file under its directory's name.
"""

TYPE_CHECKING = False  # as in typing, without importing typing
if TYPE_CHECKING:
    from ._version import __version__
    from .loading import load
    from .runtime.bundle import Bundle
    from .runtime.config import GenerationConfig
    from .runtime.errors import OnnxGptError
    from .runtime.generation import Completion, Token
    from .runtime.model import Model

__all__ = [
    "Bundle",
    "Completion",
    "GenerationConfig",
    "Model",
    "OnnxGptError",
    "Token",
    "__version__",
    "load",
]

_HOME_OF_NAME = {
    "Bundle": ".runtime.bundle",
    "Completion": ".runtime.generation",
    "GenerationConfig": ".runtime.config",
    "Model": ".runtime.model",
    "OnnxGptError": ".runtime.errors",
    "Token": ".runtime.generation",
    "__version__": "._version",
    "load": ".loading",
}


def __getattr__(name: str) -> object:
    home = _HOME_OF_NAME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home, __package__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
