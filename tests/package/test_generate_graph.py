"""generate.onnx against the stepwise runtime, token by token; and its parts against published and runtime values."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxgpt
from onnxgpt.export.package import package_bundle
from onnxgpt.export.package.building import GraphBuilder
from onnxgpt.export.package.generate_graph import left_out_options
from onnxgpt.export.package.random_nodes import add_numbers
from onnxgpt.export.package.sampling_nodes import SamplingValues, add_token
from onnxgpt.loading import find_bundle
from onnxgpt.quantize import quantize_bundle
from onnxgpt.quantize.blocks import BlockFormat
from onnxgpt.runtime.bundle import PACKAGED_FILES, Bundle
from onnxgpt.runtime.config import GenerationConfig
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.errors import BundleError, OutputExistsError
from onnxgpt.runtime.logits import Rows, processors_for
from onnxgpt.runtime.model import Model
from onnxgpt.runtime.random import uniform
from onnxgpt.runtime.sampling import Sampler

from .one_call import OneCall, array, as_options

MakeBundle = Callable[..., Bundle]
DOCS = Path(__file__).parents[2] / "docs" / "random.md"

GREEDY = {"temperature": 0.0}
SAMPLED = {"temperature": 0.8, "top_k": 40, "seed": 7}
SETTINGS: tuple[dict[str, Any], ...] = (
    GREEDY,
    GREEDY | {"repetition_penalty": 1.3},
    GREEDY | {"repetition_penalty": 0.8},
    SAMPLED,
    {"temperature": 1.0, "top_k": 0, "seed": 1},
    {"temperature": 1.2, "top_k": 0, "top_p": 0.9, "seed": 2},
    {"temperature": 0.7, "top_k": 5, "top_p": 0.6, "repetition_penalty": 1.2, "seed": 2**64 - 1},
    {"temperature": 2.5, "top_k": 1000000, "top_p": 0.999, "repetition_penalty": 1.1, "seed": 2**40 + 5},
)
PROMPTS = (
    "Once upon a time", "The wolf said", "In a far country", "The king", "A poor woodcutter", "Deep in the forest",
    "“Mother,” said the girl,", "There was once a queen who", "The youngest son", "It was winter, and", "No",
    "The fox and the crow", "When the moon rose", "She opened the door and", "Three days later", "The sea",
    "A golden apple", "He laughed", "Before the sun was up", "And so they lived",
)  # fmt: skip


# The parts


def single(builder: GraphBuilder, output: str, element: int) -> Any:
    """A session of a graph with one output."""
    builder.output(output, element, [None])
    opset = helper.make_operatorsetid("", 20)
    model = helper.make_model(builder.graph(), opset_imports=[opset], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString())


def test_the_numbers_are_those_of_the_specification() -> None:
    builder = GraphBuilder("numbers")
    seed, steps = (builder.input(name, TensorProto.INT64, [None]) for name in ("seed", "steps"))
    session = single(builder, add_numbers(builder, seed, steps), TensorProto.DOUBLE)
    rows = re.findall(r"^\| (\d+) \| 0 \| (\d+) \| \S+ \| \S+ \| (\S+) \|", DOCS.read_text(encoding="utf-8"), re.M)

    assert len(rows) == 4  # the vectors of sequence 0
    for text, step, number in rows:
        feeds = {"seed": array("seed", int(text)), "steps": np.array([int(step)])}
        assert session.run(None, feeds)[0].tolist() == [float(number)]
    seed_of_all_bits = 2**64 - 3
    found = session.run(None, {"seed": array("seed", seed_of_all_bits), "steps": np.arange(50)})[0]
    assert found.tolist() == [uniform(seed_of_all_bits, 0, step) for step in range(50)]


def token_session(vocabulary: int) -> Any:
    """Logits, history, step, settings and a number in; a token out."""
    builder = GraphBuilder("token")
    for name in ("temperature", "top_p", "repetition_penalty"):
        builder.input(name, TensorProto.FLOAT, [1])
    for name in ("is_greedy", "is_plain", "keeps_scores", "limits_k", "limits_p"):
        builder.input(name, TensorProto.BOOL, [1])
    builder.input("logits", TensorProto.FLOAT, [vocabulary])
    builder.input("history", TensorProto.INT64, [1, None])
    builder.input("numbers", TensorProto.DOUBLE, [None])
    for name in ("top_k", "step"):
        builder.input(name, TensorProto.INT64, [1])
    values = SamplingValues(**{name: name for name in SamplingValues.__dataclass_fields__})
    return single(builder, add_token(builder, "logits", "history", "step", values), TensorProto.INT64)


@pytest.mark.parametrize("vocabulary", [7, 300, 6000])
def test_a_token_is_the_one_that_the_runtime_chooses(vocabulary: int) -> None:
    """Flat and peaked logits, with many ties and without."""
    session = token_session(vocabulary)
    random = np.random.default_rng(vocabulary)
    for trial in range(60):
        logits = random.normal(0, (0.3, 2, 8)[trial % 3], vocabulary).astype(np.float32)
        if trial % 2:
            logits = np.round(logits * 2) / 2
        history = random.integers(0, vocabulary, (1, 9))
        settings = SETTINGS[trial % len(SETTINGS)]
        config = GenerationConfig(**as_options(settings))
        pipeline = processors_for(config, vocabulary_size=vocabulary, context_length=99)
        scores, ids = pipeline.shortlist(Rows(history, [4], [0]), logits[None])
        sampler = Sampler(is_greedy=config.is_greedy, seed=config.seed or 0)
        expected = sampler.choose(scores[0], 5, None if ids is None else ids[0])

        penalty, top_k, top_p = config.repetition_penalty, settings.get("top_k", 0), settings.get("top_p", 1.0)
        numbers = [uniform(config.seed or 0, 0, step) for step in range(6)]
        feeds = {
            "logits": logits,
            "history": history,
            "step": np.array([5]),
            "numbers": np.array(numbers),
            "top_k": np.array([top_k]),
            **{name: array(name, settings.get(name, 1.0)) for name in ("temperature", "top_p", "repetition_penalty")},
            "is_greedy": np.array([config.is_greedy]),
            "is_plain": np.array([config.is_greedy and penalty == 1]),
            "keeps_scores": np.array([penalty == 1]),
            "limits_k": np.array([0 < top_k < vocabulary]),
            "limits_p": np.array([top_p < 1]),
        }
        assert session.run(None, feeds)[0].tolist() == [expected], (trial, settings)


# Whole generations


@pytest.fixture(scope="module")
def fairytale() -> Model:
    return onnxgpt.load("fairytale")


@pytest.fixture(scope="module")
def one_call(packaged_fairytale: Bundle) -> OneCall:
    return OneCall(packaged_fairytale.directory)


def assert_same(model: Model, call: OneCall, prompt: list[int], settings: dict[str, Any]) -> int:
    """One call gives the runtime's tokens, and ends for its reason; their number."""
    expected = model.generate(prompt, **as_options(settings))[0]
    assert call.run(prompt, **settings) == (list(expected.token_ids), expected.finish_reason), settings
    return expected.completion_tokens


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_twenty_prompts_of_the_embedded_model(fairytale: Model, one_call: OneCall, settings: dict[str, Any]) -> None:
    assert len(PROMPTS) == 20
    for text in PROMPTS:
        assert_same(fairytale, one_call, fairytale.tokenizer.encode(text), settings | {"max_new_tokens": 40})


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_setting(fairytale: Model, one_call: OneCall, settings: dict[str, Any]) -> None:
    prompt = fairytale.tokenizer.encode("The wolf said to the seven little kids")
    assert_same(fairytale, one_call, prompt, settings | {"max_new_tokens": 60})


def test_a_long_prompt_and_the_end_of_the_context(fairytale: Model, one_call: OneCall) -> None:
    room = 30
    prompt = (fairytale.tokenizer.encode(" ".join(PROMPTS)) * 20)[: fairytale.bundle.manifest.context_length - room]
    settings = SAMPLED | {"max_new_tokens": 1000, "end_ids": ()}

    assert assert_same(fairytale, one_call, prompt, settings) == room
    assert one_call.run(prompt + prompt[:room], **settings) == ([], "context")
    assert one_call.run(prompt * 2, **settings) == ([], "context")


def test_end_ids_end_the_text(fairytale: Model, one_call: OneCall) -> None:
    prompt = fairytale.tokenizer.encode("Once upon a time")
    ids, _ = one_call.run(prompt, **GREEDY, max_new_tokens=30)
    settings = GREEDY | {"max_new_tokens": 30, "end_ids": (ids[12], ids[20])}

    assert assert_same(fairytale, one_call, prompt, settings) <= 13
    assert one_call.run(prompt, **settings)[1] == "eos"
    assert one_call.run(prompt, **GREEDY, max_new_tokens=30, end_ids=()) == (ids, "length")


def test_limits_of_0_and_1(fairytale: Model, one_call: OneCall) -> None:
    prompt = fairytale.tokenizer.encode("Once")
    for settings in (GREEDY, SAMPLED):
        assert one_call.run(prompt, **settings, max_new_tokens=0) == ([], "length")
        assert assert_same(fairytale, one_call, prompt, settings | {"max_new_tokens": 1}) == 1
    assert one_call.run(prompt, **GREEDY, max_new_tokens=-3) == ([], "length")


def test_what_is_not_given_is_as_the_bundle_has_it(fairytale: Model, one_call: OneCall) -> None:
    prompt = fairytale.tokenizer.encode("The king had a daughter")
    expected = fairytale.generate(prompt, seed=0)[0]

    assert one_call.run(prompt) == (list(expected.token_ids), expected.finish_reason)


def test_no_calls_are_mixed_up(fairytale: Model, one_call: OneCall) -> None:
    """The graph keeps nothing from one call to the next."""
    first, second = (fairytale.tokenizer.encode(text) for text in PROMPTS[:2])
    alone = one_call.run(first, **SAMPLED, max_new_tokens=20)
    one_call.run(second, **SAMPLED, max_new_tokens=20)

    assert one_call.run(first, **SAMPLED, max_new_tokens=20) == alone


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("gpt2", "fused"),
        ("llama", "fused"),
        ("rotary outside", "fused"),
        ("alibi, norm on the embedding", "fused"),
        ("windows, soft caps, norms on both sides, local rotary", "fused"),
        ("no fused attention", "fused"),
        ("llama", "standard"),
    ],
)
def test_graphs_of_all_kinds(small_bundle: MakeBundle, tmp_path: Path, name: str, operators: str) -> None:
    bundle = small_bundle(name, operators)
    model = Model.load(bundle.directory)
    call = OneCall(package_bundle(bundle.directory, tmp_path / "packaged").directory)
    prompt = np.random.default_rng(3).integers(1, model.session.spec.vocab_size, 11).tolist()

    for settings in (GREEDY, SETTINGS[6]):
        assert_same(model, call, prompt, settings | {"max_new_tokens": 200, "end_ids": ()})  # to the context's end


@pytest.mark.parametrize(
    "changes", [{}, {"layers": BlockFormat.parse("4:32")}, {"recipe": "cache"}], ids=["int8", "int4", "cache"]
)
def test_smaller_bundles(small_bundle: MakeBundle, tmp_path: Path, changes: dict[str, Any]) -> None:
    made = quantize_bundle(small_bundle("llama").directory, tmp_path / "small", **on_text(tmp_path), **changes)
    model = Model.load(made.directory)
    call = OneCall(package_bundle(made.directory, tmp_path / "packaged").directory)

    for settings in (GREEDY, SETTINGS[6]):
        assert_same(model, call, [5, 6, 7, 250], settings | {"max_new_tokens": 50, "end_ids": ()})


def on_text(directory: Path) -> dict[str, Any]:
    """To quantize random weights quickly: they need no literature, and stay within no recipe's limit."""
    text = directory / "text.txt"
    text.write_text("In a kingdom by the sea there lived a miller who had three sons and a cat. " * 40, "utf-8")
    return {"calibration": text, "evaluation": text, "accept_quality": True}


# The bundle


def test_the_packaged_bundle_is_the_bundle_with_files_more(fairytale: Model, packaged_fairytale: Bundle) -> None:
    before, after = fairytale.bundle.manifest.files, packaged_fairytale.manifest.files

    packaged_fairytale.verify_hashes()
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() <= PACKAGED_FILES
    assert after["generate.onnx"].size < 3 * after["model.onnx"].size  # its weights lie in the other graph's file
    prompt = "Once upon a time"
    assert Model.load(packaged_fairytale.directory).generate(prompt, seed=1)[0].text == (
        fairytale.generate(prompt, seed=1)[0].text
    )


def test_a_bundle_made_of_a_packaged_one_does_not_have_its_graphs(small_bundle: MakeBundle, tmp_path: Path) -> None:
    packaged = package_bundle(small_bundle("gpt2").directory, tmp_path / "packaged")
    made = quantize_bundle(packaged.directory, tmp_path / "int8", **on_text(tmp_path))

    assert not PACKAGED_FILES & made.manifest.files.keys()


def test_what_is_packaged_already_is_refused(packaged_fairytale: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"packaged already \(it has .*generate.onnx"):
        package_bundle(packaged_fairytale.directory, tmp_path / "again")
    with pytest.raises(OutputExistsError, match="exists already"):
        package_bundle(packaged_fairytale.directory, packaged_fairytale.directory)
    assert not list(tmp_path.iterdir())


def test_a_bundle_of_others_is_refused(packaged_fairytale: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(find_bundle("fairytale"), source)
    manifest = json.loads((source / "bundle.json").read_text("utf-8"))
    manifest["graph"]["foreign"] = True
    (source / "bundle.json").write_text(json.dumps(manifest), "utf-8")

    with pytest.raises(BundleError, match=r"was exported by others .* onnxgpt export"):
        package_bundle(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path) -> None:
    def package(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "onnxgpt", "package", *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=tmp_path, timeout=120)

    done, again = package("fairytale", "--out", "made"), package("fairytale", "--out", "made")

    assert (done.returncode, done.stdout) == (0, "made\n")
    assert re.fullmatch(r"fairytale-int8: with .*generate.onnx \([\d.]+ kB\).*\n", done.stderr)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("error: made exists already")
    assert package("made", "--out", "more").returncode == 1


def test_options_that_the_graph_lacks_are_told() -> None:
    expressed = {"do_sample": True, "temperature": 0.5, "top_k": 3, "top_p": 0.5, "eos_token_id": [1, 2]}

    assert left_out_options(expressed | {"bos_token_id": 1}) == []
    assert left_out_options(expressed | {"min_p": 0.1, "suppress_tokens": [7]}) == ["min_p", "suppress_tokens"]
