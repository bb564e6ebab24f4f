"""Weights as older releases wrote them: names of the bare model, causal masks and rotary frequencies among them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from onnxgpt.models.checkpoint import build_gpt, open_checkpoint
from onnxgpt.models.families import FAMILIES
from onnxgpt.runtime.errors import CheckpointError

from .cases import all_cases
from .judging import save, tiny_model

MASK, LOWEST, FREQUENCIES = torch.ones(1, 1, 192, 192, dtype=torch.uint8), torch.tensor(-1e9), torch.ones(1)
# What stood beside the weights, in each layer "#" or once.
BUFFERS: dict[str, dict[str, torch.Tensor]] = {
    "openai-gpt": {"h.#.attn.bias": MASK},
    "gpt2": {"h.#.attn.bias": MASK, "h.#.attn.masked_bias": LOWEST},
    "gpt_neo": {"h.#.attn.attention.bias": MASK, "h.#.attn.attention.masked_bias": LOWEST},
    "gptj": {"h.#.attn.bias": MASK, "h.#.attn.masked_bias": LOWEST},
    "gpt_neox": {
        "layers.#.attention.bias": MASK,
        "layers.#.attention.masked_bias": LOWEST,
        "layers.#.attention.rotary_emb.inv_freq": FREQUENCIES,
    },
    "bloom": {"h.#.self_attention.scale_mask_softmax.causal_mask": MASK},
    "opt": {"decoder.version": FREQUENCIES},
}


def saved(model_type: str, directory: Path) -> tuple[Path, Any]:
    """The first case of a family."""
    case = next(case for case in all_cases() if case.model_type == model_type)
    return save(tiny_model(model_type, case.settings), directory), FAMILIES[model_type]


@pytest.mark.parametrize("model_type", BUFFERS)
def test_bare_names_and_buffers_are_read_as_the_same_weights(model_type: str, tmp_path: Path) -> None:
    directory, family = saved(model_type, tmp_path)
    expected = open_checkpoint(directory)
    path = directory / "model.safetensors"
    tensors = {name.removeprefix(family.prefix): tensor for name, tensor in load_file(path).items()}
    assert tensors.keys() != load_file(path).keys()
    for name, buffer in BUFFERS[model_type].items():
        for layer in range(expected.config.num_layers):
            tensors[name.replace("#", str(layer))] = buffer.clone()
    save_file(tensors, path)
    found = open_checkpoint(directory)
    assert found.weights.keys() == expected.weights.keys()
    assert all(torch.equal(found.weights[name], expected.weights[name]) for name in expected.weights)


@pytest.mark.parametrize("model_type", BUFFERS)
def test_every_tensor_is_needed_and_has_its_shape(model_type: str, tmp_path: Path) -> None:
    directory, _ = saved(model_type, tmp_path)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    of_one_layer = [name for name in tensors if not re.search(r"\.[1-9]\d*\.", name)]
    assert len(of_one_layer) > 10
    for name in of_one_layer:
        save_file({other: tensor for other, tensor in tensors.items() if other != name}, path)
        with pytest.raises(CheckpointError, match=re.escape(name)):
            open_checkpoint(directory)
        save_file(tensors | {name: tensors[name][:-1].clone()}, path)
        with pytest.raises(CheckpointError, match=rf"{re.escape(name)} has shape"):
            open_checkpoint(directory)


def test_gptj_without_rotary_dim_turns_the_whole_of_its_one_head(tmp_path: Path) -> None:
    """transformers 4 took null, which its code can compute where there is one head; transformers 5 refuses it."""
    model = tiny_model("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 1, "n_positions": 64, "rotary_dim": 16})
    model.config.__dict__["rotary_dim"] = None
    turning = type(model)(model.config).eval()
    turning.load_state_dict(model.state_dict())
    assert turning.transformer.h[0].attn.rotary_dim is None
    ours = build_gpt(open_checkpoint(save(turning, tmp_path)))
    ids = torch.randint(1, 256, (1, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = turning(ids, use_cache=False).logits
        assert (expected - model(ids, use_cache=False).logits).abs().max() > 0.01
        assert (ours(ids, torch.ones_like(ids))[0] - expected).abs().max() <= 1e-4
