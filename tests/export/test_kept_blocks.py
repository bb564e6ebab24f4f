"""A GGUF file's own blocks in the bundle: the weights that the file means, and the logits that transformers gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from onnxgpt.export import export_bundle, prove_parity
from onnxgpt.export.keeping import export_kept
from onnxgpt.graphs.targets import graph_form
from onnxgpt.keeping import judge_kept
from onnxgpt.models.catalog import pull
from onnxgpt.models.checkpoint import Checkpoint, open_checkpoint
from onnxgpt.quantize import quantize_bundle
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.errors import ExportError, OptionError, QuantizationError

from ..models.conftest import read_by_transformers, tiny_model
from ..models.test_gguf_file import write_gguf

Made = tuple[Path, Checkpoint, Bundle]


def _mixed(name: str) -> str:
    """As llama.cpp mixes types: more bits for values and the head, and here one matrix of each layer in float16."""
    if "ffn_up" in name:
        return "F16"
    return "Q6_K" if "attn_v" in name or name == "output.weight" else "Q4_K"


# Family, config, and the type of each matrix.
CASES: dict[str, tuple[str, dict[str, Any], Callable[[str], str]]] = {
    "llama, tied, Q4_1": (
        "llama",
        {"intermediate_size": 64, "tie_word_embeddings": True},
        lambda name: "Q4_1",
    ),
    "gpt2, fused attention, Q4_0 and Q4_1": (
        "gpt2",
        {},
        lambda name: "Q4_1" if "attn_qkv" in name else "F32" if "position" in name else "Q4_0",
    ),
    "llama, biases, Q8_0 and Q5_1": (
        "llama",
        {"intermediate_size": 64, "attention_bias": True, "mlp_bias": True},
        lambda name: "Q5_1" if "ffn_down" in name else "Q8_0",
    ),
    "llama, K-quants mixed": ("llama", {"hidden_size": 256, "intermediate_size": 256}, _mixed),
}
FLOAT_PRODUCTS = ("llama, tied, Q4_1", "gpt2, fused attention, Q4_0 and Q4_1")  # 4-bit blocks alone


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """The file of a case, opened, and its bundle, made once."""
    root = tmp_path_factory.mktemp("kept")
    done: dict[str, Made] = {}

    def make(case: str) -> Made:
        if case not in done:
            family, changes, kinds = CASES[case]
            path = write_gguf(root / f"{len(done)}.gguf", tiny_model(family, **changes), kinds=kinds)
            checkpoint = open_checkpoint(path)
            bundle = export_kept(checkpoint, root / str(len(done)), judge=judge_kept)
            done[case] = path, checkpoint, bundle
        return done[case]

    return make


def effective_weights(bundle: Bundle) -> dict[str, np.ndarray]:
    """Each matrix in blocks as the graph means it, [columns, in], worked out from its initializers alone."""
    graph = onnx.load(bundle.graph_path).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {}
    for name, codes in arrays.items():
        if not name.endswith(".codes"):
            continue
        stem = name.removesuffix(".codes")
        scales = arrays[f"{stem}.scales"].astype(np.float32)
        settings: dict[str, int] = {}  # of the product and, where there is one, of the look-up
        for node in graph.node:
            if name in node.input:
                settings |= {attribute.name: attribute.i for attribute in node.attribute}
        if settings["bits"] == 4:
            codes = np.stack([codes % 16, codes // 16], axis=-1).reshape(*codes.shape[:2], -1)
        assert codes.shape == (*scales.shape, settings["block_size"])
        assert settings.get("N", len(codes)) == len(codes)
        weights = (codes.astype(np.float32) - 2 ** (settings["bits"] - 1)) * scales[..., None]
        if f"{stem}.shifts" in arrays:
            weights = weights + arrays[f"{stem}.shifts"].astype(np.float32).T[..., None]
        found[stem] = weights.reshape(len(codes), -1)
    return found


def transformers_weights(path: Path) -> dict[str, np.ndarray]:
    """The same matrices [out, in] as transformers reads them from the file, under the names of our graph."""
    model = read_by_transformers(path)
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    found = {"token_embedding.weight": model.get_input_embeddings().weight.detach().numpy()}
    found["head.weight"] = state["lm_head.weight"]
    for layer in range(2):
        block = f"blocks.{layer}"
        if model.config.model_type == "gpt2":
            theirs = f"transformer.h.{layer}"
            names = {"attention.qkv": "attn.c_attn", "attention.output": "attn.c_proj", "mlp.up": "mlp.c_fc"}
            for ours, name in (names | {"mlp.down": "mlp.c_proj"}).items():
                found[f"{block}.{ours}.weight"] = state[f"{theirs}.{name}.weight"].T
            continue
        theirs = f"model.layers.{layer}"
        packed = {
            "attention.qkv": [f"self_attn.{part}_proj" for part in "qkv"],
            "attention.output": ["self_attn.o_proj"],
            "mlp.gate_up": ["mlp.gate_proj", "mlp.up_proj"],
            "mlp.down": ["mlp.down_proj"],
        }
        for ours, parts in packed.items():
            found[f"{block}.{ours}.weight"] = np.concatenate([state[f"{theirs}.{part}.weight"] for part in parts])
    return found


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_in_float16_the_file_s_own_scales_are_exact(target: str, made: Callable[[str], Made], tmp_path: Path) -> None:
    """Q4_1 has its scales and minima in float16, so half precision loses nothing of the weights."""
    path, checkpoint, _ = made("llama, tied, Q4_1")
    bundle = export_kept(checkpoint, tmp_path / "half", judge=judge_kept, form=graph_form(target, dtype="float16"))
    assert (bundle.manifest.graph.target, bundle.manifest.graph.dtype) == (target, "float16")
    expected = transformers_weights(path)
    found = effective_weights(bundle)
    assert len(found) > 4
    for name, weights in found.items():
        difference = np.abs(weights - expected[name]).max()
        assert difference <= 4 * np.finfo(np.float32).eps * np.abs(expected[name]).max(), name
    assert bundle.manifest.quality is not None
    assert bundle.manifest.quality["mean_kl"] < 1e-3


@pytest.mark.parametrize("case", CASES)
def test_the_bundle_s_weights_are_those_of_the_file(case: str, made: Callable[[str], Made]) -> None:
    path, _, bundle = made(case)
    expected = transformers_weights(path)
    for name, found in effective_weights(bundle).items():
        difference = np.abs(found - expected[name]).max()
        assert difference <= 4 * np.finfo(np.float32).eps * np.abs(expected[name]).max(), name


@pytest.mark.parametrize("case", CASES)
def test_the_manifest_counts_what_was_kept_and_tells_what_it_costs(case: str, made: Callable[[str], Made]) -> None:
    path, _, bundle = made(case)
    manifest = bundle.manifest
    kinds = Counter(tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors if len(tensor.shape) == 2)
    assert manifest.quantization is not None
    kept, full = Counter(manifest.quantization["kept"]), Counter(manifest.quantization["full_precision"])
    assert kept + full == kinds
    # The gate is packed with the float16 matrix and goes with it.
    assert full == {"llama, K-quants mixed": {"F16": 2, "Q4_K": 2}, CASES_WITH_POSITIONS: {"F32": 1}}.get(case, {})
    assert manifest.quantization["name"] == "kept"
    assert manifest.quantization["largest_weight_difference"] <= 1e-6
    assert manifest.name.endswith("-kept")
    assert manifest.parity is None
    assert manifest.quality is not None
    assert manifest.quality["mean_kl"] <= (1e-6 if case in FLOAT_PRODUCTS else 0.05)


CASES_WITH_POSITIONS = "gpt2, fused attention, Q4_0 and Q4_1"


@pytest.mark.parametrize("case", FLOAT_PRODUCTS)
def test_products_by_four_bits_are_exact_in_prefill_steps_and_ragged_batches(
    case: str, made: Callable[[str], Made]
) -> None:
    """As exact as a full-precision bundle: PyTorch with the dequantized weights is the judge."""
    _, checkpoint, bundle = made(case)
    report = prove_parity(bundle, checkpoint)
    assert report.failures() == []


def test_logits_are_those_of_transformers_reading_the_same_file(made: Callable[[str], Made]) -> None:
    path, _, bundle = made("llama, tied, Q4_1")
    from onnxgpt import load

    ids = [int(number) for number in np.random.default_rng(5).integers(1, 128, 40)]
    with torch.no_grad():
        theirs = read_by_transformers(path)(torch.tensor([ids])).logits[0].numpy()
    ours = load(bundle.directory).logits(ids)
    assert theirs.std() > 0.5
    assert np.abs(ours - theirs).max() <= 1e-4


def test_a_tied_matrix_is_stored_once_and_block_sums_are_shared(made: Callable[[str], Made]) -> None:
    _, checkpoint, bundle = made("llama, tied, Q4_1")
    graph = onnx.load(bundle.graph_path, load_external_data=False).graph
    names = [tensor.name for tensor in graph.initializer]
    assert names.count("token_embedding.weight.codes") == 1
    assert not any(name in names for name in checkpoint.weights if name in checkpoint.stored)
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    sums = [node for node in graph.node if node.op_type == "ReduceSum" and "block_sums.axis" in node.input]
    assert len(products) == 2 * 4 + 1
    assert len(sums) == len({node.input[0] for node in products}) == len(products)
    stored = sum(matrix.data.nbytes for matrix in checkpoint.stored.values())
    assert bundle.weight_bytes <= 1.5 * stored + 60_000  # scales and shifts in float32, norms, rotary tables


def test_weights_that_the_blocks_do_not_mean_are_refused_and_nothing_is_written(
    made: Callable[[str], Made], tmp_path: Path
) -> None:
    _, checkpoint, _ = made("llama, tied, Q4_1")
    name = "blocks.1.mlp.down.weight"
    changed = checkpoint.weights[name].clone()
    changed[3, 4] += 1e-4
    other = replace(checkpoint, weights=checkpoint.weights | {name: changed})
    with pytest.raises(ExportError, match=r"blocks\.1\.mlp\.down\.weight"):
        export_kept(other, tmp_path / "out", judge=judge_kept)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_with_a_file_s_blocks_is_quantized_already(made: Callable[[str], Made], tmp_path: Path) -> None:
    _, _, bundle = made("llama, tied, Q4_1")
    with pytest.raises(QuantizationError, match="quantized already"):
        quantize_bundle(bundle.directory, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_quantization": True, "judge": judge_kept}, "no quantization to keep: its matrices are F32"),
        ({"keep_quantization": True, "judge": judge_kept, "operators": "standard"}, "fused"),
        ({"keep_quantization": True, "judge": judge_kept, "lora": ["adapter"]}, "adapters change the weights"),
        ({"keep_quantization": True}, "belong together"),
        ({"judge": judge_kept}, "belong together"),
    ],
)
def test_what_cannot_be_kept_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"))
    with pytest.raises(OptionError, match=message):
        export_bundle(path, tmp_path / "out", **options)
    assert [item.name for item in tmp_path.iterdir()] == ["tiny.gguf"]


SMOLLM2 = "smollm2-135m-instruct"


@pytest.mark.slow
def test_smollm2_keeps_its_blocks_and_loses_less_than_llama_cpp(tmp_path: Path) -> None:
    """llama.cpp's own figure on the same file, with int8 activations throughout, is 0.0028 nats on tales."""
    pull(SMOLLM2)
    kept = export_bundle(SMOLLM2, tmp_path / "kept", keep_quantization=True, judge=judge_kept)
    assert kept.manifest.quantization is not None
    assert kept.manifest.quantization["kept"] == {"Q4_1": 210, "Q8_0": 1}
    assert kept.manifest.quantization["largest_weight_difference"] == 0
    assert kept.manifest.quality is not None
    assert kept.manifest.quality["text"]["name"] == "evaluation.txt"
    assert kept.manifest.quality["mean_kl"] <= 0.0015
    assert kept.weight_bytes <= 115e6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_smollm2_in_types_without_minima_is_equal_bit_for_bit(kind: str, tmp_path: Path) -> None:
    source = gguf.GGUFReader(pull(SMOLLM2))
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for field in source.fields.values():
        if field.name.startswith("GGUF.") or field.name == gguf.Keys.General.ARCHITECTURE:
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    expected: dict[str, np.ndarray] = {}
    for tensor in source.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if len(tensor.shape) == 2:
            data = gguf.quantize(values, gguf.GGMLQuantizationType[kind])
            expected[tensor.name] = data
            writer.add_tensor(tensor.name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    kept = export_bundle(path, tmp_path / "kept", keep_quantization=True, judge=judge_kept)
    assert kept.manifest.quantization is not None
    assert kept.manifest.quantization["kept"] == {kind: 211}
    assert kept.manifest.quantization["largest_weight_difference"] == 0
    found = effective_weights(kept)
    for layer in range(30):  # rows of these are in the file's order
        weights = gguf.dequantize(expected[f"blk.{layer}.ffn_down.weight"], gguf.GGMLQuantizationType[kind])
        np.testing.assert_array_equal(found[f"blocks.{layer}.mlp.down.weight"], weights)
    embedding = gguf.dequantize(expected["token_embd.weight"], gguf.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(found["token_embedding.weight"], embedding)
