"""nanoGPT's ckpt.pt, written as its train.py does, against transformers' GPT-2 with the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from onnxgpt.export import export_bundle, prove_parity
from onnxgpt.models.checkpoint import build_gpt, open_checkpoint
from onnxgpt.quantize import quantize_bundle
from onnxgpt.runtime.errors import CheckpointError

from .conftest import tiny_model, write_tokenizer

IDS = [5, 250, 31, 2, 99, 140, 7]


def gpt2(bias: bool) -> transformers.GPT2LMHeadModel:
    """GPT-2 with the exact GELU; without biases, theirs are zero."""
    model = tiny_model("gpt2", activation_function="gelu")
    if not bias:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(".bias"):
                    parameter.zero_()
    return model


def as_nanogpt(model: transformers.GPT2LMHeadModel, bias: bool, *, compiled: bool = False) -> dict[str, Any]:
    """What train.py of nanoGPT saves; its Linear keeps [out, in] where Conv1D of transformers keeps [in, out]."""
    turned = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    tensors = {}
    for name, tensor in model.state_dict().items():
        if bias or not name.endswith(".bias"):
            tensors[name] = (tensor.T if name.endswith(turned) else tensor).clone()
    sizes = model.config
    return {
        "model": {("_orig_mod." if compiled else "") + name: tensor for name, tensor in tensors.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 6e-4, "betas": (0.9, 0.95)}]},
        "model_args": {
            "n_layer": sizes.n_layer,
            "n_head": sizes.n_head,
            "n_embd": sizes.n_embd,
            "block_size": sizes.n_positions,
            "bias": bias,
            "vocab_size": sizes.vocab_size,
            "dropout": 0.0,
        },
        "iter_num": 2000,
        "best_val_loss": torch.tensor(1.47),
        "config": {"out_dir": "out", "compile": True, "learning_rate": 6e-4},
    }


def logits_of(source: Path) -> np.ndarray:
    tokens = torch.tensor([IDS])
    return np.asarray(build_gpt(open_checkpoint(source))(tokens, torch.ones_like(tokens))[0][0])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_logits_are_those_of_gpt2_with_the_same_weights(tmp_path: Path, bias: bool, compiled: bool) -> None:
    model = gpt2(bias)
    content = as_nanogpt(model, bias, compiled=compiled)
    mask = "_orig_mod.transformer.h.0.attn.bias" if compiled else "transformer.h.0.attn.bias"
    content["model"][mask] = torch.tril(torch.ones(1, 1, 64, 64))  # where PyTorch had no fused attention
    torch.save(content, tmp_path / "ckpt.pt")
    with torch.inference_mode():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(logits_of(tmp_path), expected, atol=1e-4, rtol=0)
    (tmp_path / "ckpt.pt").rename(tmp_path / "best.pt")
    np.testing.assert_allclose(logits_of(tmp_path / "best.pt"), expected, atol=1e-4, rtol=0)


def test_a_bundle_is_exported_proven_and_quantized(tmp_path: Path) -> None:
    """Without biases, in an old pickle, with the tokenizer's end of text."""
    source, letters = tmp_path / "out", tmp_path / "letters"
    source.mkdir()
    letters.mkdir()
    torch.save(as_nanogpt(gpt2(False), False), source / "ckpt.pt", _use_new_zipfile_serialization=False)
    write_tokenizer(letters)

    bundle = export_bundle(source, tmp_path / "bundle", tokenizer=letters)

    assert bundle.manifest.source["kind"] == "nanogpt"
    assert bundle.manifest.name == "out"
    assert bundle.read_json("generation_config.json") == {"eos_token_id": 0}
    assert prove_parity(bundle, open_checkpoint(source)).passed
    text = tmp_path / "text.txt"
    text.write_text("".join(chr(97 + number * number % 26) for number in range(3000)))
    made = quantize_bundle(
        bundle.directory, tmp_path / "int8", recipe="int8", calibration=text, evaluation=text, accept_quality=True
    )
    assert made.manifest.quality["mean_kl"] < 0.05


def saved(directory: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = as_nanogpt(gpt2(True), True)
    change(content)
    torch.save(content, directory / "ckpt.pt")
    return directory / "ckpt.pt"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda c: c["model_args"].pop("bias"), ("has no bias",)),
        (lambda c: c["model_args"].pop("n_head"), ("n_head",)),
        (lambda c: c["model_args"].update(bias=False), ("holds", "bias")),
        (lambda c: c["model_args"].update(n_layer=3), ("lacks", "transformer.h.2")),
        (lambda c: c["model_args"].update(block_size=65), ("wpe", "[64, 32]", "[65, 32]")),
        (lambda c: c["model_args"].update(rotary=True), ("rotary = True",)),
        (lambda c: c["model"].pop("transformer.h.1.ln_2.weight"), ("lacks", "ln_2")),
        (lambda c: c["model"].update({"transformer.extra": torch.zeros(1)}), ("holds", "transformer.extra")),
        (lambda c: c["model"].update({"note": "text"}), ("note", "tensors by name")),
        (lambda c: c["model"]["lm_head.weight"].mul_(1.1), ("lm_head.weight differs",)),
        (lambda c: c.update(model=[1]), ("expected to be objects",)),
        (lambda c: c.pop("model_args"), ("holds best_val_loss, config", "model and model_args (nanoGPT)")),
    ],
)
def test_bad_files_are_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], parts: tuple[str, ...]
) -> None:
    source = saved(tmp_path, change)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_meta_pkl_is_told_to_stay_closed(tmp_path: Path) -> None:
    source = saved(tmp_path, lambda content: None)
    (tmp_path / "meta.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"meta\.pkl, is never opened"):
        export_bundle(source, tmp_path / "bundle")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        export_bundle(source, tmp_path / "bundle", tokenizer=tmp_path / "meta.pkl")
    assert not (tmp_path / "bundle").exists()


def test_a_directory_with_a_config_is_read_as_hugging_faces(tmp_path: Path) -> None:
    """Training scripts of transformers, too, leave files named ckpt.pt."""
    saved(tmp_path, lambda content: None)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(CheckpointError, match=r"config\.json has no n_embd"):
        open_checkpoint(tmp_path)
