"""ONNX Runtime itself, imported once with its telemetry off, and what every session of it is opened with."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from .errors import ProviderError
from .threads import default_threads

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


def session_options(threads: int | None, weights_directory: Path | None, *, low_power: bool = False) -> Any:
    """Options for an `InferenceSession`.

    Args:
        threads: threads inside an operator; None: one per physical core, within the process's CPU quota.
        weights_directory: where the weights of a graph given as bytes lie.
        low_power: threads that wait sleep at once. Otherwise they spin for a while, in which a core does nothing at
            full power.

    Raises:
        ProviderError: less than one thread.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors: the rest is noise to a user
    options.enable_mem_pattern = False  # a plan per shape would be kept for every length of prompt
    if threads is not None and threads < 1:
        raise ProviderError(f"threads is {threads}: expected 1 or more")
    # Named even where ONNX Runtime would count the same: left to itself it also pins each thread to a core, where two
    # processes would share the first cores while others are idle.
    options.intra_op_num_threads = threads or default_threads()
    if low_power:
        for pool in ("intra_op", "inter_op"):
            options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    if weights_directory is not None:
        options.add_session_config_entry(_WEIGHTS_DIRECTORY_KEY, str(weights_directory))
    return options


def one_line(error: Exception) -> str:
    """An error of ONNX Runtime, which may be a page, in one line of 300 characters at most."""
    return " ".join(str(error).split())[:300]
