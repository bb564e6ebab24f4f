"""optimum's ORTModelForCausalLM: its float32 export, and the same after its dynamic int8 quantization."""

# ruff: noqa: D102  # what the methods do is said in Runtime

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime import OnStep, Prompts, Runtime
from ..workspace import Workspace
from . import optimum_env
from .peer import Peer, itself


class OrtModel(Runtime):
    """The forward of ORTModelForCausalLM with its own past key values."""

    file_name = "model.onnx"

    def import_libraries(self) -> None:
        import onnxruntime
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM

        self._torch: Any = torch
        self._onnxruntime: Any = onnxruntime
        self._class = ORTModelForCausalLM
        torch.set_num_threads(self.threads)

    def load(self) -> None:
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        self._network = self._class.from_pretrained(
            self.model, file_name=self.file_name, session_options=options, local_files_only=True
        )

    def generate(self, prompts: Prompts, new_tokens: int, on_step: OnStep) -> None:
        torch = self._torch
        ids, past = torch.tensor(prompts), None
        mask = torch.ones(len(prompts), len(prompts[0]) + new_tokens, dtype=torch.int64)
        length = len(prompts[0])
        for _ in range(new_tokens):
            positions = torch.arange(length, dtype=torch.int64)[-ids.shape[1] :].expand(len(prompts), -1)
            output = self._network(
                input_ids=ids, attention_mask=mask[:, :length], position_ids=positions, past_key_values=past
            )
            past = output.past_key_values
            ids = output.logits[:, -1:].argmax(dim=-1)
            length += 1
            if on_step(ids[:, 0].tolist()):
                return

    def logits(self, token_ids: Sequence[int]) -> Any:
        ids = self._torch.tensor([token_ids])
        mask = self._torch.ones_like(ids)
        positions = self._torch.arange(len(token_ids))[None]
        return self._network(input_ids=ids, attention_mask=mask, position_ids=positions).logits[0].numpy()


class OrtModelInt8(OrtModel):
    """The quantized file of the directory."""

    file_name = "model_quantized.onnx"


def export(source: str, target: str) -> None:
    """optimum's export; runs in the peer's environment."""
    from optimum.exporters.onnx import main_export

    main_export(source, target, task="text-generation-with-past", do_validation=False)


def quantize(source: str, target: str) -> None:
    """optimum's dynamic quantization for AVX-512 VNNI, as its documentation shows it; runs in its environment."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    ORTQuantizer.from_pretrained(source, file_name="model.onnx").quantize(quantization_config=settings, save_dir=target)


def _exported(workspace: Workspace) -> Path:
    source = workspace.hugging_face()
    environment = optimum_env.converters(workspace)
    return workspace.made("optimum-fp32", lambda target: environment.call(export, str(source), str(target)))


def _quantized(workspace: Workspace) -> Path:
    source = _exported(workspace)
    environment = optimum_env.converters(workspace)

    def make(target: Path) -> None:
        environment.call(quantize, str(source), str(target))
        for path in source.glob("*.json"):  # its quantizer writes the graph and two configs
            if not (target / path.name).exists():
                shutil.copy(path, target)

    return workspace.made("optimum-int8", make)


def _peer(name: str, runtime: type[Runtime], prepare: Any) -> Peer:
    return Peer(
        name=name,
        runtime=runtime,
        environment=optimum_env.NAME,
        requirements=optimum_env.REQUIREMENTS,
        prepare=prepare,
        weights=itself,
        reported=("optimum-onnx", "onnxruntime", "transformers"),
    )


PEERS = (
    _peer("ORTModel fp32", OrtModel, _exported),
    _peer("ORTModel dynamic int8", OrtModelInt8, _quantized),
)
