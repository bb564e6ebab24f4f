"""Every type of GGUF tensors that is read, in a tiny Llama and a tiny GPT-2: against gguf and transformers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from onnxgpt.models.checkpoint import build_gpt, open_checkpoint
from onnxgpt.models.gguf_blocks import KEPT_KINDS, take_apart

from .conftest import read_by_transformers, tiny_model
from .gguf_rows import FLOATS, K_QUANTS, QUANTIZED, Kind, encode
from .test_gguf_file import write_gguf

# K-quants have super-blocks of 256.
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 256},
}


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("kind", [*FLOATS, *QUANTIZED, *K_QUANTS])
def test_every_type_is_read_as_gguf_and_transformers_read_it(kind: str, family: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model(family, **SIZES[family]), kinds=lambda name: kind)
    checkpoint = open_checkpoint(path)
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == "blk.1.ffn_down.weight":
            assert tensor.tensor_type.name == kind
            expected = gguf.dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_array_equal(checkpoint.weights["blocks.1.mlp.down.weight"].numpy().T, expected)

    theirs = read_by_transformers(path)
    ids = torch.randint(0, 128, (2, 19), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = theirs(ids).logits
        ours = build_gpt(checkpoint)(ids, torch.ones_like(ids))[0]
    assert logits.std() > 0.3
    assert (ours - logits).abs().max() <= 1e-4 * max(1.0, float(logits.std()))


@pytest.mark.parametrize("kind", KEPT_KINDS)
def test_blocks_taken_apart_mean_what_gguf_dequantizes(kind: str) -> None:
    """(code - zero) * scale + shift, exactly so where there is no minimum; and the same in more and smaller blocks."""
    values = np.random.default_rng(3).normal(0.05, 0.3, (7, 768)).astype(np.float32)
    data, kind_id = encode(values, kind)
    expected = gguf.dequantize(data, kind_id)
    blocks = take_apart(kind, data)
    for form in (blocks, blocks.widened(8, 16)):
        assert form.codes.max() < 2**form.bits
        found = (form.codes.astype(np.float32) - 2 ** (form.bits - 1)) * form.scales[..., None]
        if form.shifts is None:
            np.testing.assert_array_equal(found.reshape(7, 768), expected)
        else:
            found = (found + form.shifts[..., None]).reshape(7, 768)
            assert np.abs(found - expected).max() <= 4 * np.finfo(np.float32).eps * np.abs(expected).max()


@pytest.mark.parametrize(("kind", "layout"), [("Q8_0", "<e32b"), ("Q4_0", "<e16B"), ("Q4_1", "<ee16B")])
def test_codes_and_scales_are_the_file_s_own(kind: str, layout: str) -> None:
    """Read here with the struct module, by ggml's structures: the scale, the minimum, int8 or two nibbles a byte."""
    values = np.random.default_rng(4).normal(0, 1, (1, 64)).astype(np.float32)
    data = gguf.quantize(values, Kind[kind])
    blocks = take_apart(kind, data)
    for index, raw in enumerate(struct.iter_unpack(layout, data.tobytes())):
        packed = raw[1:] if kind != "Q4_1" else raw[2:]
        if kind == "Q8_0":
            codes = [number + 128 for number in packed]
        else:
            codes = [number % 16 for number in packed] + [number // 16 for number in packed]
        assert blocks.codes[0, index].tolist() == codes
        assert blocks.scales[0, index] == np.float32(raw[0])
        if kind == "Q4_1":
            assert blocks.shifts is not None
            assert blocks.shifts[0, index] == np.float32(raw[1] + 8 * raw[0])
