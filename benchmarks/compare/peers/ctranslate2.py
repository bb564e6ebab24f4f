"""CTranslate2: int8 by its own converter."""

# ruff: noqa: D102  # what the methods do is said in Runtime

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime import OnStep, Prompts, Runtime
from ..workspace import Workspace
from . import optimum_env
from .peer import Peer, itself


class CTranslate2(Runtime):
    """Its Generator; tokens are told by a callback. The end-of-text token is held back by a least length."""

    def import_libraries(self) -> None:
        import ctranslate2
        import numpy as np

        self._np = np
        self._lib: Any = ctranslate2

    def load(self) -> None:
        self._generator = self._lib.Generator(
            str(self.model), device="cpu", compute_type="int8", inter_threads=1, intra_threads=self.threads
        )
        self._words = json.loads((self.model / "vocabulary.json").read_text(encoding="utf-8"))

    def generate(self, prompts: Prompts, new_tokens: int, on_step: OnStep) -> None:
        step: list[int] = []
        stopped = False

        def on_token(result: Any) -> bool:
            nonlocal stopped
            step.append(result.token_id)
            if len(step) == len(prompts):
                stopped = on_step(step) or stopped
                step.clear()
            return stopped

        self._generator.generate_batch(
            [[self._words[token] for token in prompt] for prompt in prompts],
            max_length=new_tokens, min_length=new_tokens, include_prompt_in_result=False, callback=on_token,
        )  # fmt: skip

    def logits(self, token_ids: Sequence[int]) -> Any:
        return self._np.array(self._generator.forward_batch([list(token_ids)]))[0]


def _converted(workspace: Workspace) -> Path:
    source = workspace.hugging_face()
    environment = optimum_env.converters(workspace, "ctranslate2")

    def make(target: Path) -> None:
        environment.call(convert, str(source), str(target))

    return workspace.made("ctranslate2-int8", make)


def convert(source: str, target: str) -> None:
    """CTranslate2's converter for transformers; runs where those are installed."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(source).convert(target, quantization="int8")


PEERS = (
    Peer(
        name="CTranslate2 int8",
        runtime=CTranslate2,
        environment="ct2",
        requirements=("ctranslate2", "numpy"),
        prepare=_converted,
        weights=itself,
        reported=("ctranslate2",),
    ),
)
