"""onnxruntime-genai: int8 and int4 by its own model builder, with the builder's defaults for the CPU."""

# ruff: noqa: D102  # what the methods do is said in Runtime

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime import NotMeasuredError, OnStep, Prompts, Runtime
from ..workspace import Workspace
from .peer import Peer, itself

_ENVIRONMENT = "genai"
_REQUIREMENTS = ("onnxruntime-genai", "onnxruntime", "numpy")
# The builder wants a newer transformers than optimum allows, so it runs in the runtime's environment, which never
# imports what is only here for the builder.
_BUILDER_REQUIREMENTS = ("torch==2.13.0", "transformers", "onnx-ir")


class GenAI(Runtime):
    """Its Generator, greedy; the end-of-text token is held back by a least length."""

    def import_libraries(self) -> None:
        import numpy as np
        import onnxruntime_genai

        self._np = np
        self._lib: Any = onnxruntime_genai
        onnxruntime_genai.disable_telemetry_events()

    def load(self) -> None:
        config = self._lib.Config(str(self.model))
        threads = {"model": {"decoder": {"session_options": {"intra_op_num_threads": self.threads}}}}
        config.overlay(json.dumps(threads))
        self._model = self._lib.Model(config)

    def _generator(self, rows: int, length: int) -> Any:
        parameters = self._lib.GeneratorParams(self._model)
        parameters.set_search_options(do_sample=False, batch_size=rows, max_length=length, min_length=length)
        return self._lib.Generator(self._model, parameters)

    def generate(self, prompts: Prompts, new_tokens: int, on_step: OnStep) -> None:
        generator = self._generator(len(prompts), len(prompts[0]) + new_tokens)
        ids = self._np.array(prompts, self._np.int32)
        generator.append_tokens(ids if len(prompts) > 1 else ids[0])
        for _ in range(new_tokens):
            generator.generate_next_token()
            if on_step(generator.get_next_tokens()):
                return

    def logits(self, token_ids: Sequence[int]) -> Any:
        generator = self._generator(1, len(token_ids) + 1)
        generator.append_tokens(self._np.array(token_ids, self._np.int32))
        logits = self._np.asarray(generator.get_output("logits"))
        if logits.shape[-2] != len(token_ids):
            raise NotMeasuredError("gives the last position's logits only")
        return logits.reshape(len(token_ids), -1)


def _built(workspace: Workspace, precision: str) -> Path:
    source = workspace.hugging_face()
    environment = workspace.environment(_ENVIRONMENT)
    environment.ensure((*_REQUIREMENTS, *_BUILDER_REQUIREMENTS))

    def make(target: Path) -> None:
        scratch = str(target.with_suffix(".scratch"))
        arguments = ["-i", str(source), "-o", str(target), "-p", precision, "-e", "cpu", "-c", scratch]
        environment.run(["-m", "onnxruntime_genai.models.builder", *arguments])

    return workspace.made(f"genai-{precision}", make)


def _peer(precision: str) -> Peer:
    return Peer(
        name=f"onnxruntime-genai {precision}",
        runtime=GenAI,
        environment=_ENVIRONMENT,
        requirements=_REQUIREMENTS,
        prepare=lambda workspace: _built(workspace, precision),
        weights=itself,
        reported=("onnxruntime-genai", "onnxruntime"),
    )


PEERS = (_peer("int8"), _peer("int4"))
