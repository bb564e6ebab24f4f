"""LoRA adapters, merged: against the peft package (tests/golden/make_lora.py) and against sums worked in PyTorch."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from onnxgpt.export import export_bundle, prove_parity
from onnxgpt.models.checkpoint import build_gpt, open_checkpoint
from onnxgpt.models.lora import adapter_from_text
from onnxgpt.runtime.errors import CheckpointError, OnnxGptError, OptionError, UnsupportedModelError
from onnxgpt.runtime.session import Session

from ..runtime.conftest import GOLDEN, load_golden
from .conftest import edit_json, save_checkpoint, tiny_model, write_tokenizer

Tensors = dict[str, torch.Tensor]
PROMPT = [1, 7, 33, 60, 12, 12, 5, 48, 21, 3, 59, 30]
BARE: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 3, "bias": "none"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the adapters of peft were trained on."""
    root = tmp_path_factory.mktemp("bases")
    llama = load_golden("tiny_llama").write_tiny_llama(root / "llama")
    load_golden("tiny_gpt2").tiny_gpt2().save_pretrained(root / "gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(llama / name, root / "gpt2" / name)
    return {"llama": llama, "gpt2": root / "gpt2"}


def golden(name: str) -> tuple[Path, np.ndarray]:
    directory = GOLDEN / "lora" / name
    return directory, np.load(directory / "logits.npy")


def logits_of(checkpoint: Any, ids: list[int]) -> torch.Tensor:
    tokens = torch.tensor([ids])
    return build_gpt(checkpoint)(tokens, torch.ones_like(tokens))[0][0]


def write_adapter(directory: Path, tensors: Tensors, **config: Any) -> Path:
    directory.mkdir()
    save_file({f"base_model.model.{name}": tensor for name, tensor in tensors.items()},
              directory / "adapter_model.safetensors")  # fmt: skip
    (directory / "adapter_config.json").write_text(json.dumps(BARE | config))
    return directory


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.4


def low_rank(module: str, rows: int, columns: int, rank: int = 2) -> Tensors:
    return {f"{module}.lora_A.weight": random(rank, columns), f"{module}.lora_B.weight": random(rows, rank)}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_logits_are_those_of_peft(bases: dict[str, Path], name: str) -> None:
    """Ranks and alphas by pattern, the root of the rank, an embedding, a whole head; Conv1D, one layer, biases."""
    adapter, expected = golden(name)

    found = logits_of(open_checkpoint(bases[name], lora=[adapter]), PROMPT).numpy()

    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    unchanged = logits_of(open_checkpoint(bases[name]), PROMPT).numpy()
    assert np.abs(unchanged - expected).max() > 1


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_bundle_of_an_adapted_model_says_so_and_can_be_proven(
    bases: dict[str, Path], tmp_path: Path, name: str
) -> None:
    adapter, expected = golden(name)
    bundle = export_bundle(bases[name], tmp_path / "bundle", lora=[adapter])

    graph = bundle.manifest.graph
    session = Session.open(
        bundle.graph_path,
        record=graph,
        context_length=bundle.manifest.context_length,
    )
    with session.new_cache() as cache:
        found = session.step(np.array([PROMPT]), cache, keep=0)[0].copy()
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)

    digest = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    told = {"location": name, "scale": 1.0, "sha256": {"adapter_model.safetensors": digest}}
    assert bundle.manifest.source["adapters"] == [told]
    assert prove_parity(bundle, open_checkpoint(bases[name], lora=[adapter])).passed
    assert not prove_parity(bundle, open_checkpoint(bases[name])).passed


def adapted_by_hand(family: str, changes: dict[str, torch.Tensor], **config: Any) -> transformers.PreTrainedModel:
    """transformers' own model with sums added to its parameters."""
    model = copy.deepcopy(tiny_model(family, **config))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, change in changes.items():
            parameters[name] += change
    return model


def same_as(model: transformers.PreTrainedModel, checkpoint: Any) -> bool:
    ids = [5, 250, 31, 2, 99, 140]
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0]
    return torch.allclose(logits_of(checkpoint, ids), expected, atol=1e-4, rtol=0)


def test_several_adapters_add_up_with_their_scales(saved: dict[str, Path], tmp_path: Path) -> None:
    query, up = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"
    first = low_rank(query, 32, 32) | low_rank(up, 48, 32)
    second = low_rank(query, 32, 32, rank=4)
    one = write_adapter(tmp_path / "one", first)
    two = write_adapter(tmp_path / "two", second, r=4, lora_alpha=8, use_rslora=True)

    checkpoint = open_checkpoint(saved["llama"], lora=[(one, 0.5), two])

    def product(tensors: Tensors, module: str) -> torch.Tensor:
        return tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]

    by_hand = adapted_by_hand(
        "llama",
        {
            f"{query}.weight": product(first, query) * (0.5 * 3 / 2) + product(second, query) * (8 / math.sqrt(4)),
            f"{up}.weight": product(first, up) * (0.5 * 3 / 2),
        },
    )
    assert same_as(by_hand, checkpoint)
    assert not same_as(by_hand, open_checkpoint(saved["llama"], lora=[one, two]))
    assert [entry["scale"] for entry in checkpoint.source["adapters"]] == [0.5, 1.0]


def test_a_square_matrix_of_conv1d_is_changed_the_right_way_round(saved: dict[str, Path], tmp_path: Path) -> None:
    """Whatever fan_in_fan_out says: peft, too, goes by the kind of the module."""
    module = "transformer.h.0.attn.c_proj"
    tensors = low_rank(module, 32, 32)
    change = (tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]).T * (3 / 2)
    for flag in (True, False):
        adapter = write_adapter(tmp_path / f"adapter-{flag}", tensors, fan_in_fan_out=flag)
        assert same_as(
            adapted_by_hand("gpt2", {f"{module}.weight": change}), open_checkpoint(saved["gpt2"], lora=[adapter])
        )


def test_bare_names_and_half_precision_bases_and_pickles_are_adapted(tmp_path: Path) -> None:
    """A GPT-2 as OpenAI's was published (no `transformer.`), in bfloat16; an adapter of the whole model, as .bin."""
    module = "transformer.h.1.mlp.c_fc"
    model = tiny_model("gpt2").to(torch.bfloat16)
    base = tmp_path / "base"
    model.transformer.save_pretrained(base)
    write_tokenizer(base)
    tensors = low_rank(module, 128, 32)
    adapter = write_adapter(tmp_path / "adapter", tensors)
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()

    by_hand = copy.deepcopy(model).to(torch.float32)
    with torch.no_grad():
        product = tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
        by_hand.transformer.h[1].mlp.c_fc.weight += product.T * (3 / 2)
    assert same_as(by_hand, open_checkpoint(base, lora=[adapter]))


QUERY = "model.layers.0.self_attn.q_proj"
GOOD = low_rank(QUERY, 32, 32)


@pytest.mark.parametrize(
    ("tensors", "config", "parts"),
    [
        ({f"{QUERY}.lora_A.weight": random(2, 32)}, {}, ("q_proj has A alone", "both")),
        (low_rank(QUERY, 32, 32, rank=3), {}, ("rank 3", "says 2")),
        (low_rank(QUERY, 32, 48), {}, ("[32, 48]", "[32, 32]")),
        (low_rank("model.layers.0.self_attn.k_proj", 32, 32), {}, ("k_proj", "[16, 32]")),
        (low_rank("model.layers.2.self_attn.q_proj", 32, 32), {}, ("layers.2", "does not have")),
        (low_rank("transformer.h.0.attn.c_attn", 96, 32), {}, ("c_attn", "does not have")),
        (low_rank("model.embed_tokens", 32, 300), {}, ("embed_tokens", "a matrix, which it is not")),
        (GOOD | {"model.norm.weight": random(32)}, {}, ("model.norm.weight", "modules_to_save")),
        (GOOD | {"lm_head.weight": random(400, 32)}, {"modules_to_save": ["lm_head"]}, ("[400, 32]", "[300, 32]")),
        (GOOD | {f"{QUERY}.lora_magnitude_vector": random(32)}, {}, ("lora_magnitude_vector",)),
        ({name: tensor * math.nan for name, tensor in GOOD.items()}, {}, ("q_proj", "finite")),
        (GOOD, {"use_dora": True}, ("use_dora = True",)),
        (GOOD, {"init_lora_weights": "pissa"}, ("init_lora_weights = 'pissa'",)),
        (GOOD, {"peft_type": "IA3"}, ("peft_type = 'IA3'",)),
        (GOOD, {"task_type": "SEQ_CLS"}, ("task_type",)),
        (GOOD, {"layer_replication": [[0, 2], [1, 2]]}, ("layer_replication",)),
        (GOOD, {"trainable_token_indices": [1]}, ("trainable_token_indices",)),
        (GOOD, {"bias": "some"}, ("bias = 'some'",)),
        (GOOD, {"new_kind_of_sum": 1}, ("new_kind_of_sum",)),
        (GOOD, {"r": 0}, ("r is 0",)),
        (GOOD, {"rank_pattern": {"(": 3}}, ("'('", "regular expression")),
        (GOOD, {"alpha_pattern": {"q_proj": "big"}}, ("'big'", "number")),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    saved: dict[str, Path], tmp_path: Path, tensors: Tensors, config: dict[str, Any], parts: tuple[str, ...]
) -> None:
    refused(saved["llama"], write_adapter(tmp_path / "adapter", tensors, **config), *parts)


def refused(base: Path, adapter: Any, *parts: str, error: type[OnnxGptError] = CheckpointError) -> None:
    with pytest.raises(error) as caught:
        open_checkpoint(base, lora=[adapter])
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_are_not_of_peft_are_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", GOOD)
    file = adapter / "adapter_model.safetensors"
    save_file({name.replace("lora_A", "lora_A.default"): tensor for name, tensor in load_file(file).items()}, file)
    refused(saved["llama"], adapter, "lora_A.default")
    save_file(GOOD, file)
    refused(saved["llama"], adapter, "base_model.model.")


def test_half_an_adapter_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", GOOD)
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(saved["llama"], adapter, "adapter_model.safetensors", "truncated")
    file.unlink()
    refused(saved["llama"], adapter, "adapter_model.bin")
    refused(saved["llama"], tmp_path / "nowhere", "adapter_config.json")
    (adapter / "adapter_config.json").write_text("[]")
    file.touch()
    refused(saved["llama"], adapter, "JSON object")


def test_a_tied_head_or_embedding_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    embedding = {
        "transformer.wte.lora_embedding_A": random(2, 300),
        "transformer.wte.lora_embedding_B": random(32, 2),
    }
    for name, tensors in (("wte", embedding), ("head", low_rank("lm_head", 300, 32))):
        adapter = write_adapter(tmp_path / name, tensors)
        refused(saved["gpt2"], adapter, "ties", "untie", error=UnsupportedModelError)


def test_whole_tensors_can_be_neither_scaled_nor_taken_over_another_change(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    adapter, _ = golden("llama")
    refused(bases["llama"], (adapter, 0.5), "lm_head.weight", "scaled", error=OptionError)
    head = write_adapter(tmp_path / "head", low_rank("lm_head", 64, 32))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight, which an adapter before it changed"):
        open_checkpoint(bases["llama"], lora=[head, adapter])


def test_a_copy_of_another_models_embedding_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(golden("llama")[0], tmp_path / "adapter"))
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.embed_tokens.base_layer.weight"][3, 4] += 1
    save_file(tensors, file)
    refused(bases["llama"], adapter, "embed_tokens", "trained on another model")


def test_quantized_bases_are_still_refused(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    directory, adapter = copy_of("llama"), write_adapter(tmp_path / "adapter", GOOD)
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors[f"{QUERY}.weight"] = tensors[f"{QUERY}.weight"].to(torch.int8)
    save_file(tensors, file, metadata={"format": "pt"})
    refused(directory, adapter, "torch.int8", error=UnsupportedModelError)


def test_the_command_line_takes_a_scale_behind_the_last_equals_sign(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    assert adapter_from_text("C:\\adapters\\one") == ("C:\\adapters\\one", 1.0)
    assert adapter_from_text("C:\\adapters\\one=0.5") == ("C:\\adapters\\one", 0.5)
    assert adapter_from_text(f"{tmp_path / 'a=b'}") == (f"{tmp_path / 'a=b'}", 1.0)
    assert adapter_from_text(f"{tmp_path / 'a=b'}=-2e-1") == (f"{tmp_path / 'a=b'}", -0.2)
    with pytest.raises(OptionError, match="'half'"):
        adapter_from_text("one=half")


@pytest.mark.parametrize("scale", [math.nan, math.inf, True, "1"])
def test_scales_that_are_no_number_are_refused(saved: dict[str, Path], tmp_path: Path, scale: Any) -> None:
    refused(saved["llama"], (write_adapter(tmp_path / "adapter", GOOD), scale), "scale", error=OptionError)


def test_a_tokenizer_can_be_given_instead_of_the_checkpoints_own(
    copy_of: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = copy_of("llama")
    (tmp_path / "words").mkdir()
    words = load_golden("tiny_llama").write_tiny_llama(tmp_path / "words")
    edit_json(words / "tokenizer_config.json", eos_token="w2")
    (directory / "chat_template.jinja").write_text("{{ messages }}")

    own = open_checkpoint(directory).files
    given = open_checkpoint(directory, tokenizer=words).files
    assert given["tokenizer.json"] == (words / "tokenizer.json").read_bytes() != own["tokenizer.json"]
    assert json.loads(given["tokenizer_config.json"])["eos_token"] == "w2"
    assert "chat_template.jinja" in own
    assert "chat_template.jinja" not in given
    alone = open_checkpoint(directory, tokenizer=words / "tokenizer.json").files
    assert alone["tokenizer.json"] == given["tokenizer.json"]
    assert "eos_token" not in json.loads(alone["tokenizer_config.json"])

    (directory / "tokenizer.json").unlink()
    refused_tokenizer(directory, None, "--tokenizer")
    refused_tokenizer(directory, tmp_path / "nowhere", "nowhere")
    refused_tokenizer(directory, directory / "config.json", "no tokenizer")
    big = save_checkpoint(tmp_path / "small", tiny_model("llama", vocab_size=40))
    refused_tokenizer(big, words, "w63", "40 rows")


def refused_tokenizer(directory: Path, tokenizer: Path | None, *parts: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(directory, tokenizer=tokenizer)
    for part in parts:
        assert part in str(caught.value)
