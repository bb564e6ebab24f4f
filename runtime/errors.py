"""The exceptions of onnxgpt.

    OnnxGptError
    ├── BundleError (ValueError)            a directory that is not a sound bundle
    │   └── BundleNotFoundError (FileNotFoundError)
    ├── CheckpointError (ValueError)        a source whose weights or config cannot be trusted
    │   └── UnsupportedModelError           a sound model that is not implemented here
    ├── SourceNotFoundError (FileNotFoundError)   no such checkpoint, name or hub model
    ├── ExportError (RuntimeError)          the export went wrong
    │   ├── ParityError                     the exported graph is not the model it came from
    │   └── UnsupportedTokenizerError       a sound tokenizer that no graph is written for
    ├── QuantizationError (RuntimeError)    a bundle that can't be quantized
    │   └── QualityError                    the quantized bundle is too far from full precision
    ├── OutputExistsError (FileExistsError) the output is there already
    ├── OptionError (ValueError)            a generation option out of range, unknown or without effect
    ├── PromptError (ValueError)            a prompt that is empty or does not fit the context
    ├── ProviderError (RuntimeError)        an execution provider that is not there or not honest
    ├── MemoryLimitError (MemoryError)      more memory needed than allowed
    └── DownloadError (OSError)             a named model could not be fetched, or is not what was promised

Every message says what was found, what was expected and what to do.
"""

from __future__ import annotations


class OnnxGptError(Exception):
    """Anything that onnxgpt refuses or fails to do."""


class BundleError(OnnxGptError, ValueError):
    """A directory that is not a sound bundle."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """No bundle at the given path."""


class CheckpointError(OnnxGptError, ValueError):
    """A checkpoint whose config or weights cannot be trusted: a key too many, too few or misshaped."""


class UnsupportedModelError(CheckpointError):
    """A sound checkpoint of a family, or with a choice, that is not implemented here."""


class SourceNotFoundError(OnnxGptError, FileNotFoundError):
    """Nothing to export at the given path or under the given name."""


class ExportError(OnnxGptError, RuntimeError):
    """The export went wrong."""


class ParityError(ExportError):
    """The exported graph does not compute what the PyTorch model computes."""


class UnsupportedTokenizerError(ExportError):
    """A sound tokenizer of a kind, or with a choice, that cannot be written as a graph."""


class QuantizationError(OnnxGptError, RuntimeError):
    """A bundle that can't be quantized as asked."""


class QualityError(QuantizationError):
    """The quantized bundle is further from full precision than its recipe allows."""


class OutputExistsError(OnnxGptError, FileExistsError):
    """The output is there already and was not to be replaced."""


class OptionError(OnnxGptError, ValueError):
    """A generation option that is unknown, out of range, or can have no effect."""


class PromptError(OnnxGptError, ValueError):
    """A prompt that is empty, not text or token ids, or longer than the context."""


class ProviderError(OnnxGptError, RuntimeError):
    """An execution provider that is unknown, not installed, or would not run the graph."""


class MemoryLimitError(OnnxGptError, MemoryError):
    """More memory is needed than the stated limit allows."""


class DownloadError(OnnxGptError, OSError):
    """A model could not be fetched, or is not what the catalogue promises."""
