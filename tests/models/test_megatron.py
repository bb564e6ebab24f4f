"""Megatron-LM's files: each order of query, key and value against transformers' own script (make_megatron.py).

Later choices (rotary, SwiGLU, RMSNorm, groups, an own head) are held against transformers' Llama and GPT-NeoX, whose
weights the tests write down as Megatron-LM would.
"""

from __future__ import annotations

import enum
import pickle
import shutil
import sys
import types
from argparse import Namespace
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
from onnxgpt.runtime.errors import CheckpointError, OptionError, UnsupportedModelError

from ..runtime.conftest import GOLDEN, load_golden
from .conftest import tiny_model, write_tokenizer

tiny = load_golden("tiny_megatron")
FILE = "model_optim_rng.pt"


def logits_of(source: Path, ids: list[int]) -> np.ndarray:
    tokens = torch.tensor([ids])
    return np.asarray(build_gpt(open_checkpoint(source))(tokens, torch.ones_like(tokens))[0][0])


@pytest.mark.parametrize(
    ("version", "names"),
    [
        (None, {"body": "transformer", "attention": "attention"}),
        (0, {"body": "transformer", "attention": "attention"}),
        (1.0, {"attention": "attention"}),
        (2.0, {}),
        (3.0, {}),
    ],
)
def test_each_order_of_query_key_and_value_is_that_of_transformers_script(
    tmp_path: Path, version: float | None, names: dict[str, str]
) -> None:
    source = tiny.write_tiny_megatron(tmp_path / "iter_0000100", version, **names)
    found = logits_of(source, tiny.PROMPT)
    with np.load(GOLDEN / "megatron.npz") as golden:
        expected = golden["none" if version is None else str(version)]
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
        others = [golden[name] for name in ("0", "1.0", "2.0")]
    assert sum(np.abs(found - other).max() > 1 for other in others) == 2  # the other two orders make other models


def test_every_way_to_name_the_checkpoint_finds_it(tmp_path: Path) -> None:
    root = tmp_path / "run"
    tiny.write_tiny_megatron(root / "iter_0000100", 3.0)
    (root / "latest_checkpointed_iteration.txt").write_text("100\n")
    expected = logits_of(root, tiny.PROMPT)
    places = [root / "iter_0000100", root / "iter_0000100" / "mp_rank_00", root / "iter_0000100" / "mp_rank_00" / FILE]
    assert all(np.array_equal(logits_of(place, tiny.PROMPT), expected) for place in places)
    (root / "iter_0000100").rename(root / "release")
    (root / "latest_checkpointed_iteration.txt").write_text("release")
    assert np.array_equal(logits_of(root, tiny.PROMPT), expected)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("megatron")
    source = tiny.write_tiny_megatron(directory / "run", 3.0)
    tokenizer = load_golden("tiny_llama").write_tiny_llama(directory / "words")
    return source, export_bundle(source, directory / "bundle", tokenizer=tokenizer)


def test_a_bundle_is_exported_with_the_given_tokenizer_and_proven_without_it(exported: tuple[Path, Any]) -> None:
    source, bundle = exported
    assert bundle.manifest.source["kind"] == "megatron"
    assert list(bundle.manifest.source["sha256"]) == [FILE]
    assert bundle.manifest.parity["passed"]
    assert prove_parity(bundle, open_checkpoint(source)).passed
    written = bundle.read_json("config.json")
    assert (written["n_embd"], written["n_head"], written["vocab_size"]) == (24, 3, 64)


def test_a_bundle_quantizes_to_int8(exported: tuple[Path, Any], tmp_path: Path) -> None:
    text = tmp_path / "words.txt"
    text.write_text(" ".join(f"w{(7 * number * number + number) % 64}" for number in range(3000)))
    _, bundle = exported
    made = quantize_bundle(
        bundle.directory, tmp_path / "int8", recipe="int8", calibration=text, evaluation=text, accept_quality=True
    )
    assert made.manifest.quality["mean_kl"] < 0.05


def pack_groups(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, groups: int, head: int) -> torch.Tensor:
    """Rows as ParallelAttention of Megatron-LM keeps them: of each group its queries, its key, its value."""
    rows: list[torch.Tensor] = []
    for group in range(groups):
        wide = query.shape[0] // groups
        rows += [query[group * wide : (group + 1) * wide], key[group * head : (group + 1) * head],
                 value[group * head : (group + 1) * head]]  # fmt: skip
    return torch.cat(rows)


def as_megatron(model: transformers.LlamaForCausalLM) -> dict[str, Any]:
    """A Llama's weights as Megatron-LM keeps them: its legacy GPT with --swiglu, rope, RMSNorm, groups, no biases."""
    config, weights = model.config, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers: dict[str, torch.Tensor] = {"final_norm.weight": weights["model.norm.weight"]}
    for number in range(config.num_hidden_layers):
        theirs, ours = f"model.layers.{number}", f"layers.{number}"
        query, key, value = (weights[f"{theirs}.self_attn.{part}_proj.weight"] for part in "qkv")
        packed = pack_groups(query, key, value, config.num_key_value_heads, config.head_dim)
        gate, up = (weights[f"{theirs}.mlp.{part}_proj.weight"] for part in ("gate", "up"))
        layers |= {
            f"{ours}.input_norm.weight": weights[f"{theirs}.input_layernorm.weight"],
            f"{ours}.post_attention_norm.weight": weights[f"{theirs}.post_attention_layernorm.weight"],
            f"{ours}.self_attention.query_key_value.weight": packed,
            f"{ours}.self_attention.dense.weight": weights[f"{theirs}.self_attn.o_proj.weight"],
            f"{ours}.mlp.dense_h_to_4h.weight": torch.cat([gate, up]),
            f"{ours}.mlp.dense_4h_to_h.weight": weights[f"{theirs}.mlp.down_proj.weight"],
        }
    language_model = {
        "embedding": {"word_embeddings": {"weight": weights["model.embed_tokens.weight"]}},
        "encoder": layers,
        "output_layer": {"weight": weights["lm_head.weight"]},
    }
    arguments = Namespace(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        group_query_attention=True,
        num_query_groups=config.num_key_value_heads,
        kv_channels=config.head_dim,
        ffn_hidden_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        padded_vocab_size=config.vocab_size,
        position_embedding_type="rope",
        rotary_base=5000,
        normalization="RMSNorm",
        norm_epsilon=config.rms_norm_eps,
        swiglu=True,
        add_bias_linear=False,
        untie_embeddings_and_output_weights=True,
        bias_gelu_fusion=False,
    )
    return {"args": arguments, "checkpoint_version": 3.0, "model": {"language_model": language_model}}


def llama() -> transformers.LlamaForCausalLM:
    return tiny_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, head_dim=10)


def test_a_llama_in_megatrons_layout_is_that_llama(tmp_path: Path) -> None:
    model = llama()
    torch.save(as_megatron(model), tmp_path / FILE)
    ids = [5, 250, 31, 2, 99, 140, 7]
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(logits_of(tmp_path / FILE, ids), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("fused", [True, False])
def test_a_gpt_neox_in_megatrons_layout_is_that_gpt_neox(tmp_path: Path, fused: bool) -> None:
    """Partial rotary positions with LayerNorm and biases; GPT-NeoX grew out of Megatron-LM and keeps its row order."""
    torch.manual_seed(0)
    model = transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            max_position_embeddings=64, use_parallel_residual=False, tie_word_embeddings=False,
            hidden_act="gelu_fast" if fused else "gelu",
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3 if parameter.dim() > 1 else 0.1)
    renamed = {"attention.": "self_attention.", "final_layer_norm": "final_layernorm"}
    layers = {}
    for name, tensor in model.gpt_neox.state_dict().items():
        if name.startswith(("layers.", "final_layer_norm")) and "rotary" not in name:
            for old, new in renamed.items():
                name = name.replace(f".{old}", f".{new}") if old.endswith(".") else name.replace(old, new)
            layers[name.replace("post_self_attention.", "post_attention_")] = tensor
    content = {
        "args": Namespace(num_layers=2, hidden_size=32, num_attention_heads=4, ffn_hidden_size=48,
                          max_position_embeddings=64, padded_vocab_size=300, use_rotary_position_embeddings=True,
                          rotary_percent=0.5, bias_gelu_fusion=fused, untie_embeddings_and_output_weights=True),
        "checkpoint_version": 3.0,
        "model": {
            "language_model": {
                "embedding": {"word_embeddings": {"weight": model.gpt_neox.embed_in.weight.detach()}},
                "encoder": layers,
                "output_layer": {"weight": model.get_output_embeddings().weight.detach()},
            }
        },
    }  # fmt: skip
    torch.save(content, tmp_path / FILE)
    ids = [5, 250, 31, 2, 99, 140, 7]
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(logits_of(tmp_path / FILE, ids), expected, atol=1e-4, rtol=0)


def saved(path: Path, change: Callable[[dict[str, Any]], object] = lambda content: None, version: Any = 3.0) -> Path:
    content = tiny.tiny_megatron(version)
    change(content)
    torch.save(content, path / FILE)
    return path / FILE


def refused(source: Path, *parts: str, error: type[Exception] = CheckpointError) -> None:
    with pytest.raises(error) as caught:
        open_checkpoint(source)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [4.0, 2.5, -1, "3.0", True])
def test_a_version_that_is_not_known_is_refused(tmp_path: Path, version: Any) -> None:
    refused(saved(tmp_path, version=version), "checkpoint_version", repr(version), error=UnsupportedModelError)


def test_groups_in_an_order_that_is_not_known_are_refused(tmp_path: Path) -> None:
    content = as_megatron(llama()) | {"checkpoint_version": 1.0}
    torch.save(content, tmp_path / FILE)
    refused(tmp_path / FILE, "num_query_groups 2", "not known", error=UnsupportedModelError)


def set_argument(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: vars(content["args"]).update(changes)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"tensor_model_parallel_size": 2}, "tensor_model_parallel_size = 2"),
        ({"pipeline_model_parallel_size": 2}, "pipeline_model_parallel_size = 2"),
        ({"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
        ({"squared_relu": True}, "squared_relu"),
        ({"num_experts": 8}, "num_experts = 8"),
        ({"normalization": "LayerNorm1P"}, "normalization"),
        ({"position_embedding_type": "relative"}, "position_embedding_type = 'relative'"),
        ({"add_position_embedding": False}, "add_position_embedding"),
        ({"position_embedding_type": "rope", "use_rope_scaling": True}, "use_rope_scaling"),
    ],
)
def test_arguments_that_ask_for_more_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    refused(saved(tmp_path, set_argument(**changes)), part, error=UnsupportedModelError)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (set_argument(hidden_size=None), ("hidden_size",)),
        (set_argument(num_layers=3), ("lacks", "layers.2")),
        (set_argument(num_layers=1), ("holds", "layers.1")),
        (set_argument(ffn_hidden_size=96), ("[40, 24]", "[96, 24]")),
        (set_argument(position_embedding_type="rope"), ("holds", "position_embeddings")),
        (set_argument(num_attention_heads=5), ("5 heads",)),
        (lambda content: content.pop("args"), ("lacks", "layers.")),  # the released model's sizes, which it has not
        (lambda content: content["model"].update(lm_head={"weight": torch.zeros(1)}), ("holds", "lm_head.weight")),
        (lambda content: content["model"]["language_model"].update(pooler="x"), ("pooler is str",)),
        (lambda content: content.pop("model"), ("expected model and model_args (nanoGPT)", "Megatron-LM")),
    ],
)
def test_arguments_and_tensors_that_disagree_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], parts: tuple[str, ...]
) -> None:
    refused(saved(tmp_path, change), *parts)


def test_megatron_core_is_refused_by_its_name(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["model"] = {"embedding.word_embeddings.weight": torch.zeros(64, 24)}

    refused(saved(tmp_path, change), "Megatron Core", error=UnsupportedModelError)


def test_several_ranks_and_missing_iterations_are_refused(tmp_path: Path) -> None:
    source = tiny.write_tiny_megatron(tmp_path / "iter_0000100", 3.0)
    shutil.copytree(source / "mp_rank_00", source / "mp_rank_01")
    refused(source, "2 ranks", "mp_rank_01", "merge")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("200")
    refused(tmp_path, "iter_0000200")
    shutil.rmtree(source / "mp_rank_01")
    (source / "mp_rank_00" / FILE).unlink()
    refused(source, FILE)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [1, 200, -2000])
def test_truncated_files_are_refused(tmp_path: Path, zipped: bool, keep: int) -> None:
    torch.save(tiny.tiny_megatron(3.0), tmp_path / FILE, _use_new_zipfile_serialization=zipped)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:keep])
    refused(tmp_path / FILE, FILE)


class _Touch:
    """Unpickled without protection, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_the_pickle_is_never_run(tmp_path: Path, zipped: bool) -> None:
    trace = tmp_path / "trace"
    content = tiny.tiny_megatron(3.0)
    content["args"].hook = _Touch(trace)
    torch.save(content, tmp_path / FILE, _use_new_zipfile_serialization=zipped)
    refused(tmp_path / FILE, "code", "never run")
    (tmp_path / FILE).write_bytes(pickle.dumps(_Touch(trace), protocol=2))
    refused(tmp_path / FILE, FILE)
    assert not trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_megatrons_own_objects_and_random_states_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    """Enumerations, loss scalers and numpy's random state lie in real files; the classes are not there to read them."""
    ran: list[str] = []

    class ModelType(enum.Enum):
        encoder_or_decoder = 1

    class DynamicLossScaler:
        def __setstate__(self, state: dict[str, Any]) -> None:
            ran.append("loss scaler")

    for module, thing in (("megatron.core.enums", ModelType), ("fp16.loss_scaler", DynamicLossScaler)):
        thing.__module__, thing.__qualname__ = module, thing.__name__
        for name in (module, module.rsplit(".", 1)[0], module.split(".")[0]):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        setattr(sys.modules[module], thing.__name__, thing)
    content = tiny.tiny_megatron(3.0)
    content["args"].model_type = ModelType.encoder_or_decoder
    scaler = DynamicLossScaler()
    scaler.__dict__["cur_scale"] = 65536.0
    content |= {"optimizer": {"loss_scaler": scaler}, "np_rng_state": np.random.RandomState(1).get_state()}
    content["rng_state"] = [{"np_rng_state": np.random.RandomState(1).get_state(), "python": (3, (1, 2), None)}]
    torch.save(content, tmp_path / FILE, _use_new_zipfile_serialization=zipped)
    monkeypatch.undo()  # now as on a machine without Megatron-LM

    found = logits_of(tmp_path / FILE, tiny.PROMPT)
    with np.load(GOLDEN / "megatron.npz") as golden:
        np.testing.assert_allclose(found, golden["3.0"], atol=1e-4, rtol=0)
    assert not ran


def test_without_a_tokenizer_nothing_is_exported(tmp_path: Path) -> None:
    source = tiny.write_tiny_megatron(tmp_path / "run", 3.0)
    with pytest.raises(CheckpointError, match=r"carries no tokenizer.*--tokenizer"):
        export_bundle(source, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    (tmp_path / "letters").mkdir()
    write_tokenizer(tmp_path / "letters")
    with pytest.raises(CheckpointError, match="64 rows"):
        export_bundle(source, tmp_path / "bundle", tokenizer=tmp_path / "letters")
    with pytest.raises(OptionError, match="Hugging Face directory"):
        open_checkpoint(source, lora=[GOLDEN / "lora" / "gpt2"])
