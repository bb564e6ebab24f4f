"""Whole runs of quantization: what comes out, that it comes out the same twice, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgpt
from onnxgpt.quantize import quantize_bundle
from onnxgpt.quantize.blocks import BlockFormat
from onnxgpt.quantize.recipe import RECIPES
from onnxgpt.quantize.text_files import EvaluationText
from onnxgpt.runtime.bundle import WEIGHTS_FILE, Bundle, file_sha256, seal
from onnxgpt.runtime.errors import OnnxGptError, OptionError, OutputExistsError, QualityError, QuantizationError

GRAPH_FILES = ("model.onnx", WEIGHTS_FILE)
# Measured on the packaged evaluation text: 0.0007 and 0.0081 nats; the recipes' own limits are wider.
LARGEST_KL = {"int8": 0.002, "int4": 0.02}
SHARE_OF_WEIGHTS = {"int8": 0.30, "int4": 0.25}


@pytest.fixture(scope="session")
def quantized(full_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """The embedded model quantized by a recipe, once per session."""
    made: dict[str, Bundle] = {}

    def make(recipe: str) -> Bundle:
        if recipe not in made:
            out = tmp_path_factory.mktemp("quantized") / recipe
            made[recipe] = quantize_bundle(full_bundle.directory, out, recipe=recipe, threads=2)
        return made[recipe]

    return make


@pytest.fixture(scope="session")
def short_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough for one window of the embedded model, and quickly read."""
    path = tmp_path_factory.mktemp("text") / "short.txt"
    path.write_text(EvaluationText.packaged("evaluation").content[:4000], encoding="utf-8")
    return path


def hashes(bundle: Bundle) -> list[str]:
    return [file_sha256(bundle.directory / name) for name in GRAPH_FILES]


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_a_quantized_bundle_is_small_close_and_generates(
    recipe: str, quantized: Callable[[str], Bundle], full_bundle: Bundle
) -> None:
    bundle = quantized(recipe)
    manifest, quality = bundle.manifest, bundle.manifest.quality

    bundle.verify_hashes()
    assert bundle.weight_bytes < SHARE_OF_WEIGHTS[recipe] * full_bundle.weight_bytes
    assert quality is not None
    assert 0 < quality["mean_kl"] < LARGEST_KL[recipe]
    assert quality["perplexity_ratio"] < 1 + 3 * LARGEST_KL[recipe]
    assert quality["top1_agreement"] > 0.85
    assert quality["text"] == {"name": "evaluation.txt", "sha256": EvaluationText.packaged("evaluation").sha256}
    assert quality["tokens"] == 4096
    assert len(quality["layer_errors"]) == 6
    assert manifest.quantization is not None
    assert manifest.quantization["name"] == recipe
    assert (manifest.name, manifest.parity) == (f"{full_bundle.manifest.name}-{recipe}", None)
    [completion] = onnxgpt.load(bundle.directory).generate("Once upon a time", max_new_tokens=12, do_sample=False)
    assert completion.completion_tokens == 12


def test_nothing_is_kept_twice(quantized: Callable[[str], Bundle]) -> None:
    graph = onnx.load(quantized("int8").graph_path, load_external_data=False).graph
    matrices = [
        tensor for tensor in graph.initializer if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT
    ]
    operators = [node.op_type for node in graph.node]

    # 4 matrices in each of 6 layers and the head; the embedding reads the head's codes.
    assert operators.count("MatMulNBits") == 25
    assert operators.count("GatherBlockQuantized") == 1
    assert len([tensor for tensor in graph.initializer if tensor.name.endswith(".codes")]) == 25
    assert "MatMul" not in operators
    # What is left in full precision: positions, and the scales.
    assert {tensor.name for tensor in matrices if not tensor.name.endswith(".scales")} == {"position_embedding.weight"}


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_another_process_writes_the_same_bytes(
    recipe: str, quantized: Callable[[str], Bundle], full_bundle: Bundle, short_text: Path, tmp_path: Path
) -> None:
    script = (
        "import sys\n"
        "from onnxgpt.quantize import quantize_bundle\n"
        "source, out, recipe, text = sys.argv[1:]\n"
        "quantize_bundle(source, out, recipe=recipe, evaluation=text, threads=2, accept_quality=True)\n"
    )
    command = [sys.executable, "-c", script, full_bundle.directory, tmp_path / "again", recipe, short_text]
    subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "7"}, check=True, timeout=300)

    assert hashes(Bundle.open(tmp_path / "again")) == hashes(quantized(recipe))


def test_no_recipe_needs_pytorch(full_bundle: Bundle, short_text: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from onnxgpt.quantize import quantize_bundle\n"
        "source, out, text = sys.argv[1:]\n"
        "quantize_bundle(source, out, calibration=text, evaluation=text, method='nearest', max_kl=1.0)\n"
    )
    command = [sys.executable, "-c", script, full_bundle.directory, tmp_path / "out", short_text]
    subprocess.run(command, check=True, timeout=300)

    recipe = Bundle.open(tmp_path / "out").manifest.quantization
    assert recipe is not None
    assert (recipe["method"], recipe["max_kl"]) == ("nearest", 1.0)


@pytest.mark.parametrize("name", ["llama", "no fused attention"])
@pytest.mark.parametrize(
    "fields", [{}, {"layers": BlockFormat(4, 16, symmetric=False), "smooth": False}], ids=["int8", "4-bit"]
)
def test_other_architectures_are_quantized_too(
    name: str, fields: dict[str, Any], small_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = quantize_bundle(small_bundle(name).directory, tmp_path / "out", accept_quality=True, **fields)
    logits = onnxgpt.load(bundle.directory).logits([1, 2, 3])

    assert np.isfinite(logits).all()
    assert bundle.manifest.quality is not None
    assert bundle.manifest.quality["mean_kl"] < (3.0 if fields else 0.3)  # random weights bear rounding badly


def damaged(bundle: Bundle, directory: Path, name: str, value: float) -> Path:
    """A copy with one value of one matrix changed, sealed again so that its hashes are right."""
    shutil.copytree(bundle.directory, directory)
    graph = onnx.load(directory / "model.onnx", load_external_data=False).graph
    [tensor] = [tensor for tensor in graph.initializer if tensor.name == name]
    place = {entry.key: entry.value for entry in tensor.external_data}
    weights = np.memmap(directory / WEIGHTS_FILE, np.float32, mode="r+", offset=int(place.get("offset", 0)), shape=(5,))
    weights[3] = value
    weights.flush()
    seal(directory, bundle.manifest)
    return directory


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_matrix_with_a_value_that_is_none_is_named(
    value: float, full_bundle: Bundle, short_text: Path, tmp_path: Path
) -> None:
    source = damaged(full_bundle, tmp_path / "source", "blocks.3.mlp.down.weight", value)
    with pytest.raises(QuantizationError, match=r"blocks\.3\.mlp\.down\.weight has a NaN or an infinity in it"):
        quantize_bundle(source, tmp_path / "out", calibration=short_text)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_is_quantized_already_is_refused(quantized: Callable[[str], Bundle], tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=r"is quantized already \(int8\): quantize its full-precision bundle"):
        quantize_bundle(quantized("int8").directory, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "int9"}, "unknown recipe 'int9': did you mean int"),
        ({"recipe": "best"}, "unknown recipe 'best': expected one of int8, int4"),
        ({"blocks": 3}, "blocks"),
        ({"recipe": "int8-dynamic", "layers": BlockFormat(8, 32)}, "layers"),
        ({"method": "magic"}, "method is 'magic': expected gptq or nearest"),
        ({"max_kl": 0.0}, r"max_kl is 0\.0: expected a number above 0"),
        ({"max_kl": float("nan")}, "max_kl is nan"),
        ({"head": BlockFormat(4, 32, symmetric=False)}, "head is not symmetric"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_unknown_recipes_and_fields_are_refused(
    options: dict[str, Any], message: str, full_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        quantize_bundle(full_bundle.directory, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("which", ["calibration", "evaluation"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Once upon a time.", r"the text has \d+ tokens: expected at least 513"),
        (b"", "empty"),
        (b"\xff\xfe\x00\x01" * 900, "is not UTF-8 text"),
        (b"\x00\x01\x02\x03" * 900, "is not text"),
    ],
    ids=["short", "empty", "not UTF-8", "binary"],
)
def test_texts_that_are_none_are_refused_before_the_work(
    which: str, content: bytes, message: str, full_bundle: Bundle, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    told: list[str] = []
    with pytest.raises(OptionError, match=message):
        quantize_bundle(
            full_bundle.directory,
            tmp_path / "out",
            progress=lambda doing, fraction: told.append(doing),
            **{which: text},
        )
    assert told == []
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_over_the_limit_nothing_is_written_unless_accepted(
    full_bundle: Bundle, short_text: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "layers": BlockFormat(4, 128, symmetric=False),
        "method": "nearest",
        "smooth": False,
        "calibration": short_text,
        "evaluation": short_text,
    }
    with pytest.raises(QualityError, match=r"int8 is 0\.\d+ nats \(mean KL\) from full precision, its limit is 0\.01"):
        quantize_bundle(full_bundle.directory, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []

    bundle = quantize_bundle(full_bundle.directory, tmp_path / "out", accept_quality=True, **options)
    assert bundle.manifest.quality is not None
    assert bundle.manifest.quality["mean_kl"] > 0.01


def test_what_is_there_stays_unless_force_replaces_it(full_bundle: Bundle, short_text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"calibration": short_text, "evaluation": short_text, "method": "nearest"}
    first = quantize_bundle(full_bundle.directory, out, **options)
    before = hashes(first)
    with pytest.raises(OutputExistsError, match="out exists already"):
        quantize_bundle(full_bundle.directory, out, **options)
    with pytest.raises(OnnxGptError):  # the old bundle survives a run that fails, --force or not
        quantize_bundle(full_bundle.directory, out, force=True, max_kl=1e-9, **options)
    assert hashes(Bundle.open(out)) == before

    told: list[tuple[str, float | None]] = []
    again = quantize_bundle(
        full_bundle.directory, out, force=True, smooth=False, progress=lambda *event: told.append(event), **options
    )
    assert hashes(again) != before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert any(doing == "quantizing blocks.5.mlp.down.weight" for doing, _ in told)
    fractions = [fraction for doing, fraction in told if doing.startswith("quantizing") and fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_killed_halfway_leaves_no_bundle_and_the_next_run_succeeds(
    full_bundle: Bundle, short_text: Path, tmp_path: Path
) -> None:
    script = (
        "import sys, time\n"
        "from onnxgpt.quantize import quantize_bundle\n"
        "def report(message, fraction):\n"
        "    print(message, flush=True)\n"
        "    if message.startswith('quantizing blocks.2'):\n"
        "        time.sleep(600)\n"
        "source, out, text = sys.argv[1:]\n"
        "quantize_bundle(source, out, calibration=text, progress=report)\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", script, full_bundle.directory, out, short_text]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("quantizing blocks.2"):
            assert process.poll() is None
        process.kill()
    assert not out.exists()
    assert len(list(tmp_path.glob(".out.*.partial"))) == 1

    quantize_bundle(full_bundle.directory, out, calibration=short_text, evaluation=short_text, method="nearest")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_every_recipe_says_what_it_is_for() -> None:
    assert {"int8", "int4", "int8-dynamic", "int8-static"} <= set(RECIPES)
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.description.endswith(".")
        assert recipe.max_kl <= 0.10
