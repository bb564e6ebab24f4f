"""The checkpoint as peers get it: the same weights, judged by transformers and by what reads them back."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from compare.weights import write_checkpoint_as_gguf, write_gguf, write_hugging_face
from transformers import AutoConfig, AutoModelForCausalLM

from onnxgpt.models.checkpoint import build_gpt, open_checkpoint
from onnxgpt.models.families import gguf_family_of
from onnxgpt.models.gguf_file import GgufFile
from onnxgpt.models.gguf_rules import gguf_rules
from onnxgpt.models.weight_rules import canonical_shapes, read_weights

CHECKPOINT = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint"


def test_transformers_reads_the_directory_as_the_same_model(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(CHECKPOINT)
    write_hugging_face(checkpoint, tmp_path / "model")
    ids = torch.tensor([[300, 17, 1234, 5, 900]])

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)(ids).logits
    ours, _ = build_gpt(checkpoint)(ids, torch.ones_like(ids), _no_past(checkpoint.config))

    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-4)


def test_what_is_written_opens_as_the_same_checkpoint(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(CHECKPOINT)
    write_hugging_face(checkpoint, tmp_path / "model")

    again = open_checkpoint(tmp_path / "model")

    assert again.config == checkpoint.config
    assert all(torch.equal(again.weights[name], weight) for name, weight in checkpoint.weights.items())


def test_a_gguf_file_keeps_everything_but_its_blocks(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "q8.gguf", "llama")
    writer.add_context_length(128)
    writer.add_token_list(["a", "b"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    packed = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("m", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    write_gguf(tmp_path / "q8.gguf", tmp_path / "f32.gguf")

    reader = gguf.GGUFReader(tmp_path / "f32.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert fields["llama.context_length"] == 128
    assert fields["tokenizer.ggml.tokens"] == ["a", "b"]
    assert fields["general.file_type"] == gguf.LlamaFileType.ALL_F32
    (tensor,) = reader.tensors
    assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
    np.testing.assert_array_equal(tensor.data, gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0))
    assert np.abs(tensor.data - values).max() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_checkpoint_as_gguf_has_the_same_weights(family: str, tmp_path: Path) -> None:
    if family == "gpt2":
        checkpoint = open_checkpoint(CHECKPOINT)
    else:
        settings = {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": 4096, "tie_word_embeddings": False,
        }  # fmt: skip
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **settings))
        network.save_pretrained(tmp_path / "model")
        for path in CHECKPOINT.glob("tokenizer*"):
            shutil.copy(path, tmp_path / "model")
        checkpoint = open_checkpoint(tmp_path / "model")
    write_checkpoint_as_gguf(checkpoint, tmp_path / "model.gguf")

    file = GgufFile(tmp_path / "model.gguf")
    dialect = gguf_family_of(str(file.metadata["general.architecture"]), "model.gguf").gguf
    assert dialect is not None
    shapes = canonical_shapes(checkpoint.config)
    # The rules by which the package reads what llama.cpp's own converter wrote, query and key rows regrouped included.
    found = read_weights(file, gguf_rules(dialect, checkpoint.config, shapes), shapes)

    assert all(torch.equal(found[name], weight) for name, weight in checkpoint.weights.items())
    assert file.metadata[f"{family}.context_length"] == checkpoint.config.context_length


def _no_past(config: object) -> list[tuple[torch.Tensor, torch.Tensor]]:
    from onnxgpt.models.config import GPTConfig

    assert isinstance(config, GPTConfig)
    empty = torch.zeros(1, config.num_kv_heads, 0, config.head_size)
    return [(empty, empty)] * config.num_layers
