"""Bad checkpoints, each refused in one line that names what is wrong."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from onnxgpt.models.checkpoint import Checkpoint, build_gpt, open_checkpoint
from onnxgpt.runtime.errors import (
    CheckpointError,
    OnnxGptError,
    OptionError,
    SourceNotFoundError,
    UnsupportedModelError,
)

from .conftest import edit_json, save_checkpoint, tiny_model

Copy = Callable[[str], Path]
Tensors = dict[str, torch.Tensor]


def refused(source: Path | str, *parts: str, error: type[OnnxGptError] = CheckpointError) -> None:
    """Opening `source` raises `error` with one line that holds all `parts`."""
    with pytest.raises(error) as caught:
        open_checkpoint(source)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def change_weights(directory: Path, change: Callable[[Tensors], object]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda t: t.pop(QUERY), ("lacks", QUERY)),
        (lambda t: t.pop("lm_head.weight"), ("lacks", "lm_head.weight")),
        (lambda t: t.update({"model.layers.2.extra.weight": torch.zeros(1)}), ("holds", "model.layers.2.extra.weight")),
        (lambda t: t.update({QUERY.replace("weight", "bias"): torch.zeros(32)}), ("holds", "q_proj.bias")),
        (lambda t: t.update({QUERY: t[QUERY][:16].clone()}), (QUERY, "[16, 32]", "[32, 32]")),
        (lambda t: t.update({QUERY: torch.zeros(32, 32, 1)}), (QUERY, "[32, 32, 1]")),
        (lambda t: t[QUERY].__setitem__((3, 4), float("nan")), (QUERY, "NaN")),
        (lambda t: t[QUERY].__setitem__((3, 4), float("-inf")), (QUERY, "infinity")),
    ],
)
def test_wrong_weights_are_refused_by_name(copy_of: Copy, change: Callable[[Tensors], object], parts: tuple) -> None:
    directory = copy_of("llama")
    change_weights(directory, change)
    refused(directory, *parts)


def test_a_fused_matrix_of_the_wrong_width_is_refused(copy_of: Copy) -> None:
    directory = copy_of("gpt2")
    name = "transformer.h.0.attn.c_attn.weight"
    change_weights(directory, lambda t: t.update({name: t[name][:, :95].clone()}))
    refused(directory, name, "[32, 95]", "[32, 96]")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantized_weights_are_refused(copy_of: Copy, dtype: torch.dtype) -> None:
    directory = copy_of("llama")
    change_weights(directory, lambda t: t.update({QUERY: t[QUERY].to(dtype)}))
    refused(directory, QUERY, str(dtype), error=UnsupportedModelError)


def test_a_float64_weight_too_large_for_float32_is_refused(copy_of: Copy) -> None:
    directory = copy_of("llama")
    change_weights(directory, lambda t: t.update({QUERY: torch.full((32, 32), 1e300, dtype=torch.float64)}))
    refused(directory, QUERY, "infinity")


def test_masks_and_rotary_frequencies_are_passed_over(copy_of: Copy, saved: dict[str, Path]) -> None:
    directory = copy_of("llama")
    inv_freq = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    change_weights(directory, lambda t: t.update(inv_freq))
    assert open_checkpoint(directory).weights.keys() == open_checkpoint(saved["llama"]).weights.keys()


def test_causal_masks_and_bare_names_of_old_gpt2_files_are_read(copy_of: Copy, saved: dict[str, Path]) -> None:
    directory = copy_of("gpt2")

    def as_published(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
        tensors["h.1.attn.masked_bias"] = torch.tensor(-1e4)

    change_weights(directory, as_published)
    found, expected = open_checkpoint(directory).weights, open_checkpoint(saved["gpt2"]).weights
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_copy_of_a_tied_head_must_be_equal(copy_of: Copy, saved: dict[str, Path]) -> None:
    directory = copy_of("gpt2")
    change_weights(directory, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].clone()}))
    assert open_checkpoint(directory).weights.keys() == open_checkpoint(saved["gpt2"]).weights.keys()
    change_weights(directory, lambda t: t["lm_head.weight"].mul_(1.01))
    refused(directory, "lm_head.weight", "transformer.wte.weight", "tie_word_embeddings")


@pytest.mark.parametrize("keep", [0, 4, 100, -7])
def test_truncated_safetensors_are_refused(copy_of: Copy, keep: int) -> None:
    path = copy_of("llama") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(path.parent, "model.safetensors", "truncated")


@pytest.mark.parametrize("keep", [0, 100, -1000])
def test_truncated_pickles_are_refused(copy_of: Copy, keep: int) -> None:
    directory = copy_of("llama")
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    path = directory / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:keep])
    refused(directory, "pytorch_model.bin", "truncated")


class _Touch:
    """Unpickled without protection, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_never_run(copy_of: Copy, tmp_path: Path, zipped: bool) -> None:
    directory, trace = copy_of("llama"), tmp_path / "trace"
    (directory / "model.safetensors").unlink()
    path = directory / "pytorch_model.bin"
    torch.save({"a": _Touch(trace)}, path, _use_new_zipfile_serialization=zipped)
    refused(directory, "pytorch_model.bin", "code")
    path.write_bytes(pickle.dumps(_Touch(trace), protocol=2))
    refused(directory, "pytorch_model.bin")
    assert not trace.exists()


def test_a_pickle_that_is_no_state_dict_is_refused(copy_of: Copy) -> None:
    directory = copy_of("llama")
    (directory / "model.safetensors").unlink()
    torch.save([torch.zeros(1)], directory / "pytorch_model.bin")
    refused(directory, "pytorch_model.bin", "list")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "sharded", tiny_model("llama"), max_shard_size="20KB")


def test_broken_indices_are_refused(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    name, place = next(iter(good["weight_map"].items()))
    other = next(file for file in good["weight_map"].values() if file != place)
    for weight_map, part in [
        (good["weight_map"] | {name: other}, name),
        ({key: file for key, file in good["weight_map"].items() if key != name}, name),
        (good["weight_map"] | {name: "../model.safetensors"}, "../model.safetensors"),
        (good["weight_map"] | {name: "model-9.safetensors"}, "model-9.safetensors"),
        ({name: 3}, "index"),
    ]:
        index.write_text(json.dumps({"weight_map": weight_map}))
        refused(sharded, part)
    index.write_text("{}")
    refused(sharded, "index")
    index.write_text(json.dumps(good))
    (sharded / place).unlink()
    refused(sharded, place, "missing")


def test_directories_that_hold_no_checkpoint_are_refused(copy_of: Copy, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "config.json")
    directory = copy_of("llama")
    (directory / "model.safetensors").rename(directory / "weights.safetensors")
    refused(directory, "no weights")
    (directory / "bundle.json").write_text("{}")
    refused(directory, "bundle already")
    (tmp_path / "notes.txt").write_text("notes")
    refused(tmp_path / "notes.txt", "no GGUF")


@pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
def test_a_config_that_is_no_json_object_is_refused(copy_of: Copy, content: str) -> None:
    directory = copy_of("llama")
    (directory / "config.json").write_bytes(content.encode("latin-1"))
    refused(directory, "config.json")


def test_config_and_weights_of_different_models_are_refused(copy_of: Copy) -> None:
    directory = copy_of("llama")
    edit_json(directory / "config.json", num_hidden_layers=3)
    refused(directory, "lacks", "model.layers.2")
    edit_json(directory / "config.json", num_hidden_layers=1)
    refused(directory, "holds", "model.layers.1")
    edit_json(directory / "config.json", num_hidden_layers=2, tie_word_embeddings=True)
    refused(directory, "lm_head.weight", "differs")


def test_sources_that_do_not_exist_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXGPT_CACHE", str(tmp_path))
    refused("smollm2-135m-instrukt", "smollm2-135m-instruct", error=SourceNotFoundError)
    refused("smollm2-135m-instruct", "onnxgpt pull smollm2-135m-instruct", error=SourceNotFoundError)
    refused("fairytale", "--model fairytale")
    refused("/no/such/directory", "/no/such/directory", error=SourceNotFoundError)


@pytest.mark.skipif(sys.platform == "win32", reason="making a link needs a right there")
def test_an_existing_path_wins_over_a_name_of_the_catalogue(
    saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "smollm2-135m-instruct").symlink_to(saved["llama"])
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("smollm2-135m-instruct").config.hidden_size == 32


def test_a_revision_is_for_the_hub_alone(saved: dict[str, Path]) -> None:
    for source in (saved["gpt2"], "smollm2-135m-instruct"):
        with pytest.raises(OptionError, match="revision"):
            open_checkpoint(source, revision="main")


def test_a_hub_that_cannot_be_reached_is_one_clear_error(tmp_path: Path) -> None:
    """The real client against a closed port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "from onnxgpt.models.checkpoint import open_checkpoint\n"
        "from onnxgpt.runtime.errors import DownloadError\n"
        "try:\n    open_checkpoint('nobody/nothing', revision='main')\n"
        "except DownloadError as error:\n    print(error)"
    )
    environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert "nobody/nothing at revision main could not be fetched" in done.stdout
    assert done.stdout.count("\n") == 1


def test_build_gpt_checks_names_and_shapes_once_more(saved: dict[str, Path]) -> None:
    checkpoint: Checkpoint = open_checkpoint(saved["gpt2"])
    weights = dict(checkpoint.weights)
    moved = weights.pop("final_norm.bias")
    with pytest.raises(CheckpointError, match=r"final_norm\.bias"):
        build_gpt(replace(checkpoint, weights=weights))
    with pytest.raises(CheckpointError, match=r"final_norm\.bias"):
        build_gpt(replace(checkpoint, weights=weights | {"final_norm.bias": moved[:3]}))
