"""ONNX Runtime itself, imported once with its telemetry off, and what every session of it is opened with."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
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
        threads: threads inside an operator; None: one per physical core, within the process's CPU quota, and half of
            them to save power.
        weights_directory: where the weights of a graph given as bytes lie.
        low_power: fewer threads, and those that wait sleep at once. Otherwise they spin for a while, in which a core
            does nothing at full power.

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
    options.intra_op_num_threads = threads or default_threads(low_power=low_power)
    if low_power:
        for pool in ("intra_op", "inter_op"):
            options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    if weights_directory is not None:
        options.add_session_config_entry(_WEIGHTS_DIRECTORY_KEY, str(weights_directory))
    return options


def one_line(error: Exception) -> str:
    """An error of ONNX Runtime, which may be a page, in one line of 300 characters at most."""
    return " ".join(str(error).split())[:300]


@cache
def preload_libraries() -> None:
    """Load CUDA's libraries from pip's packages of them (onnxruntime-gpu[cuda,cudnn]), where those are installed.

    ONNX Runtime by itself looks only where the system does; its `preload_dlls` prints what it does not find.
    """
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(StringIO()):
            ort.preload_dlls(directory="")


def missing_library(runtime_name: str) -> str:
    """Why a provider that is in the build did not start, by the library that it lacks, and what to do about it."""
    if runtime_name != "CUDAExecutionProvider":
        return "it did not start; see onnxgpt doctor"
    cuda = str(getattr(ort, "cuda_version", "")).partition(".")[0] or "of its own version"
    remedy = f'install CUDA {cuda} and cuDNN 9, or run `pip install "onnxruntime-gpu[cuda,cudnn]"`'
    directory = Path(ort.__file__).parent / "capi"
    for name in ("libonnxruntime_providers_cuda.so", "onnxruntime_providers_cuda.dll"):
        if (directory / name).is_file():
            try:
                ctypes.CDLL(str(directory / name))
            except OSError as error:
                library = re.match(r"(\S+): cannot open shared object file", str(error))
                found = f"{library.group(1)} can't be loaded" if library else "a library that it needs can't be loaded"
                return f"{found}; {remedy}"
    return f"its provider did not start; {remedy}, and see onnxgpt doctor"
