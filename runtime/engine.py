"""ONNX Runtime itself, imported once with its telemetry off, and what every session of it is opened with."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from .errors import ProviderError

_logger = logging.getLogger("onnxgpt")
_TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"
_WEIGHTS_DIRECTORY_KEY = "session.model_external_initializers_file_folder_path"


def import_onnxruntime() -> Any:
    """Import ONNX Runtime with its telemetry off, which only the environment before the import can do.

    Raises:
        ProviderError: ONNX Runtime is not installed.
    """
    if "onnxruntime" in sys.modules and os.environ.get(_TELEMETRY_SWITCH) != "1":
        _logger.warning(
            "onnxruntime was imported before onnxgpt with its telemetry on: set %s=1 in the environment, or import "
            "onnxgpt.runtime.engine first",
            _TELEMETRY_SWITCH,
        )
    os.environ[_TELEMETRY_SWITCH] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            f"ONNX Runtime can't be imported ({error}): install onnxgpt[cpu], onnxgpt[cuda] or onnxgpt[directml]"
        ) from error
    return onnxruntime


ort = import_onnxruntime()


def session_options(threads: int | None, weights_directory: Path | None) -> Any:
    """Options for an `InferenceSession`.

    Args:
        threads: threads inside an operator; None lets ONNX Runtime choose (one per physical core).
        weights_directory: where the weights of a graph given as bytes lie.

    Raises:
        ProviderError: less than one thread.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors: the rest is noise to a user
    options.enable_mem_pattern = False  # a plan per shape would be kept for every length of prompt
    if threads is not None:
        if threads < 1:
            raise ProviderError(f"threads is {threads}: expected 1 or more")
        options.intra_op_num_threads = threads
    if weights_directory is not None:
        options.add_session_config_entry(_WEIGHTS_DIRECTORY_KEY, str(weights_directory))
    return options


def one_line(error: Exception) -> str:
    """An error of ONNX Runtime, which may be a page, in one line of 300 characters at most."""
    return " ".join(str(error).split())[:300]
