"""onnxgpt itself: any bundles, in the interpreter that runs the comparison."""

# ruff: noqa: D102  # what the methods do is said in Runtime

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from ..runtime import OnStep, Prompts, Runtime


class OnnxGpt(Runtime):
    """`Model.stream` for one prompt, as users call it, text and log-probabilities included; the session for several."""

    def import_libraries(self) -> None:
        import numpy as np

        import onnxgpt
        from onnxgpt.runtime import model as _  # noqa: F401  # the libraries, which `load` would import

        self._np = np
        self._lib: Any = onnxgpt

    def load(self) -> None:
        self._model = self._lib.load(self.model, threads=self.threads)

    def generate(self, prompts: Prompts, new_tokens: int, on_step: OnStep) -> None:
        if len(prompts) > 1:
            self._generate_batch(prompts, new_tokens, on_step)
            return
        with self._model.stream(prompts[0], do_sample=False, max_new_tokens=new_tokens, eos_token_id=()) as tokens:
            for token in tokens:
                if on_step([token.id]):
                    return

    def _generate_batch(self, prompts: Prompts, new_tokens: int, on_step: OnStep) -> None:
        session = self._model.session
        ids = self._np.array(prompts, self._np.int64)
        length = ids.shape[1] + new_tokens
        with closing(session.new_cache(batch=len(prompts), capacity=length, limit=length)) as cache:
            for _ in range(new_tokens):
                ids = session.step(ids, cache)[:, -1:].argmax(axis=-1)
                if on_step(ids[:, 0]):
                    return

    def logits(self, token_ids: Sequence[int]) -> Any:
        return self._model.logits(token_ids)
