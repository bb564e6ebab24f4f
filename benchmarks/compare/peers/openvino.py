"""OpenVINO GenAI, from the Q8_0 GGUF file that llama.cpp's quantizer made of the same weights."""

# ruff: noqa: D102  # what the methods do is said in Runtime

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..environments import Environment
from ..runtime import OnStep, Prompts, Runtime
from ..workspace import Workspace
from .llamacpp import quantized
from .peer import Peer

_ENVIRONMENT = "openvino"
_REQUIREMENTS = ("openvino-genai", "openvino", "numpy")


class OpenVino(Runtime):
    """Its LLMPipeline on token ids: one sequence tells its tokens to a streamer, several leave their times behind."""

    def import_libraries(self) -> None:
        import numpy as np
        import openvino
        import openvino_genai

        self._np = np
        self._openvino: Any = openvino
        self._lib: Any = openvino_genai

    def load(self) -> None:
        scheduler = self._lib.SchedulerConfig()
        scheduler.enable_prefix_caching = False  # the warm-up's prompt must not be known already
        self._pipeline = self._lib.LLMPipeline(
            str(self.model), "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=self.threads
        )

    def generate(self, prompts: Prompts, new_tokens: int, on_step: OnStep) -> None:
        ids = self._np.array(prompts, self._np.int64)
        inputs = self._lib.TokenizedInputs(self._openvino.Tensor(ids), self._openvino.Tensor(self._np.ones_like(ids)))
        options = {"max_new_tokens": new_tokens, "ignore_eos": True, "do_sample": False}
        if len(prompts) == 1:
            self._pipeline.generate(inputs, streamer=_streamer(self._lib, on_step), **options)
            return
        found = self._pipeline.generate(inputs, **options)
        raw = found.perf_metrics.raw_metrics
        # Milliseconds of the clock that perf_counter reads on Linux. The scheduler takes the prompts in several steps,
        # so the first steps have fewer rows, and so have the last.
        steps = zip(raw.m_new_token_times, raw.m_batch_sizes, strict=True)
        full = [milliseconds / 1e3 for milliseconds, rows in steps if rows == len(prompts)]
        for index, seconds in enumerate(full):
            on_step([row[min(index, len(row) - 1)] for row in found.tokens], seconds)


def _streamer(library: Any, on_step: OnStep) -> Any:
    class Streamer(library.StreamerBase):  # type: ignore[misc]
        def write(self, tokens: Any) -> Any:
            status = library.StreamingStatus
            stop = False
            for token in [tokens] if isinstance(tokens, int) else tokens:
                stop = on_step([token])
            return status.STOP if stop else status.RUNNING

        def end(self) -> None:
            pass

    return Streamer()


def convert(source: str, target: str) -> None:
    """Let OpenVINO read the GGUF file once and keep its own form of it; runs in the peer's environment."""
    import openvino_genai

    directory = Path(target)
    directory.mkdir()
    copy = directory / "model.gguf"
    shutil.copy(source, copy)  # what it makes is written beside what it read
    openvino_genai.LLMPipeline(str(copy), "CPU", enable_save_ov_model=True)
    copy.unlink()


def _converted(workspace: Workspace) -> Path:
    source = quantized(workspace, "Q8_0")
    environment: Environment = workspace.environment(_ENVIRONMENT)
    return workspace.made("openvino-q8_0", lambda target: environment.call(convert, str(source), str(target)))


def _weights(directory: Path) -> Path:
    return directory / "openvino_model.bin"


PEERS = (
    Peer(
        name="OpenVINO GenAI Q8_0",
        runtime=OpenVino,
        environment=_ENVIRONMENT,
        requirements=_REQUIREMENTS,
        prepare=_converted,
        weights=_weights,
        reported=("openvino-genai",),
    ),
)
