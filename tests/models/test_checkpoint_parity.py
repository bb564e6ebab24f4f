"""Logits of `build_gpt(open_checkpoint(...))` against transformers, for tiny random models in every stored form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from onnxgpt.models.checkpoint import build_gpt, open_checkpoint

from .conftest import save_checkpoint, tiny_model

TOLERANCE = 1e-4  # in logits, whose spread here is about 10

CASES = {
    "gpt2": ("gpt2", {}),
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False}),
    "gpt2 relu, own width": ("gpt2", {"activation_function": "relu", "n_inner": 80}),
    "gpt2 exact gelu": ("gpt2", {"activation_function": "gelu", "layer_norm_epsilon": 1e-3}),
    "gpt2 quick gelu, unscaled": ("gpt2", {"activation_function": "quick_gelu", "scale_attn_weights": False}),
    "gpt2 reordered": ("gpt2", {"reorder_and_upcast_attn": True}),
    "llama grouped heads": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama all heads": ("llama", {"num_key_value_heads": 4}),
    "llama one kv head": ("llama", {"num_key_value_heads": 1}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama wide heads": ("llama", {"head_dim": 16}),
    "llama theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "llama gelu gate": ("llama", {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-3}),
    "mistral without window": ("mistral", {"sliding_window": None}),
    "mistral window as wide as the context": ("mistral", {"sliding_window": 64, "head_dim": 16}),
}


def logits_of_both(directory: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours and transformers' logits [batch, sequence, vocabulary] of the same checkpoint."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ours = build_gpt(open_checkpoint(directory))
    ids = torch.randint(0, 256, (2, 21), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return ours(ids, torch.ones_like(ids))[0], theirs(ids).logits


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    family, changes = CASES[case]
    ours, theirs = logits_of_both(save_checkpoint(tmp_path, tiny_model(family, **changes)))
    assert theirs.std() > 0.5  # otherwise the comparison would say little
    assert (ours - theirs).abs().max() <= TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("form", ["sharded", "bin", "sharded bin", "bfloat16", "float16"])
def test_every_stored_form_gives_the_same_logits(family: str, form: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    if form in ("bfloat16", "float16"):
        save_checkpoint(tmp_path, model.to(getattr(torch, form)))
    elif form == "sharded":
        save_checkpoint(tmp_path, model, max_shard_size="20KB")
        assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    else:
        save_checkpoint(tmp_path, model)
        _rewrite_as_pickles(tmp_path, model, shards=2 if form == "sharded bin" else 1)
    ours, theirs = logits_of_both(tmp_path)
    assert (ours - theirs).abs().max() <= TOLERANCE


def test_the_embedded_model_is_read(tmp_path: Path) -> None:
    directory = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint"
    checkpoint = open_checkpoint(directory)
    ours, theirs = logits_of_both(directory)
    assert (ours - theirs).abs().max() <= TOLERANCE
    assert checkpoint.source["license"] == "apache-2.0"
    assert checkpoint.config.tied_head
    assert all(tensor.dtype == torch.float32 for tensor in checkpoint.weights.values())


def test_built_models_share_the_memory_of_the_checkpoint_and_need_no_gradient(saved: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(saved["gpt2"])
    model = build_gpt(checkpoint)
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == checkpoint.weights[name].data_ptr()
        assert not parameter.requires_grad
    assert not model.training


def _rewrite_as_pickles(directory: Path, model: torch.nn.Module, *, shards: int) -> None:
    import json

    (directory / "model.safetensors").unlink()
    state = model.state_dict()
    if shards == 1:
        torch.save(state, directory / "pytorch_model.bin")
        return
    names = list(state)
    weight_map = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = {name: state[name].clone() for name in names[number::shards]}
        torch.save(part, directory / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
