"""llama.cpp through llama-cpp-python, built for this machine; its own quantizer makes the files from float32."""

# ruff: noqa: D102  # what the methods do is said in Runtime

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..environments import Environment
from ..runtime import OnStep, Prompts, Runtime
from ..workspace import Workspace
from .peer import Peer, itself

_ENVIRONMENT = "llamacpp"
_FILE_TYPES = {"Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15}  # LLAMA_FTYPE_MOSTLY_… of llama.h
_MOST_ROWS = 8


class LlamaCpp(Runtime):
    """The C functions through their ctypes binding: no Python sampler, no copies of logits that nobody reads."""

    def import_libraries(self) -> None:
        import llama_cpp
        import numpy as np

        self._np = np
        self._lib: Any = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()

    def load(self) -> None:
        parameters = self._lib.llama_model_default_params()
        self._model = self._lib.llama_model_load_from_file(str(self.model).encode(), parameters)
        if not self._model:
            raise ValueError("llama.cpp could not load the file")
        self._vocabulary = self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self._model))
        self._contexts = {1: self._new_context(1)}
        self._batch = self._lib.llama_batch_init(self.context, 0, _MOST_ROWS)

    def _new_context(self, rows: int) -> Any:
        parameters = self._lib.llama_context_default_params()
        parameters.n_ctx = self.context * rows
        parameters.n_batch = self.context
        parameters.n_seq_max = rows
        parameters.n_threads = parameters.n_threads_batch = self.threads
        context = self._lib.llama_init_from_model(self._model, parameters)
        if not context:
            raise ValueError("llama.cpp could not make a context")
        return context

    def _decode(self, context: Any, rows: Prompts, start: int, *, all_logits: bool = False) -> None:
        batch, index = self._batch, 0
        for row, tokens in enumerate(rows):
            for offset, token in enumerate(tokens):
                batch.token[index] = token
                batch.pos[index] = start + offset
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = row
                batch.logits[index] = all_logits or offset + 1 == len(tokens)
                index += 1
        batch.n_tokens = index
        status = self._lib.llama_decode(context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")

    def _logits(self, context: Any, count: int) -> Any:
        """float32 [count, vocabulary]: a view of llama.cpp's own buffer, where kept positions lie one after another."""
        pointer = self._lib.llama_get_logits(context)
        return self._np.ctypeslib.as_array(pointer, (count, self._vocabulary))

    def generate(self, prompts: Prompts, new_tokens: int, on_step: OnStep) -> None:
        rows = len(prompts)
        if rows not in self._contexts:
            self._contexts[rows] = self._new_context(rows)
        context = self._contexts[rows]
        self._lib.llama_memory_clear(self._lib.llama_get_memory(context), False)
        length = len(prompts[0])
        self._decode(context, prompts, 0)
        for step in range(new_tokens):
            tokens = self._logits(context, rows).argmax(axis=1).tolist()
            if on_step(tokens) or step + 1 == new_tokens:
                return
            self._decode(context, [[token] for token in tokens], length + step)

    def logits(self, token_ids: Sequence[int]) -> Any:
        context = self._contexts[1]
        self._lib.llama_memory_clear(self._lib.llama_get_memory(context), False)
        self._decode(context, [token_ids], 0, all_logits=True)
        return self._logits(context, len(token_ids)).copy()


def quantize(source: str, target: str, file_type: str) -> None:
    """llama.cpp's quantizer, as its command-line tool calls it; runs in the peer's environment."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = int(file_type)
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters)) != 0:
        raise SystemExit("llama_model_quantize failed")


def quantized(workspace: Workspace, file_type: str) -> Path:
    """The GGUF file of a type, by the quantizer in llama.cpp's environment."""
    environment: Environment = workspace.environment(_ENVIRONMENT)
    source = workspace.gguf()
    number = str(_FILE_TYPES[file_type])
    return workspace.made(
        f"{file_type}.gguf", lambda target: environment.call(quantize, str(source), str(target), number)
    )


def _peer(file_type: str) -> Peer:
    return Peer(
        name=f"llama.cpp {file_type}",
        runtime=LlamaCpp,
        environment=_ENVIRONMENT,
        requirements=("llama-cpp-python", "numpy"),
        from_source=True,
        build_variables={"CMAKE_ARGS": "-DGGML_NATIVE=ON"},
        prepare=lambda workspace: quantized(workspace, file_type),
        weights=itself,
        reported=("llama-cpp-python",),
    )


PEERS = tuple(_peer(file_type) for file_type in ("Q8_0", "Q4_K_M", "Q4_0"))
