"""Bundles in half precision: the model that PyTorch computes in float32, within tolerances that are stated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from onnxgpt.export import export_bundle, prove_parity
from onnxgpt.export.graph import export_graph
from onnxgpt.export.pipeline import export_checkpoint
from onnxgpt.graphs.kernel_check import place_nodes
from onnxgpt.graphs.kernel_table import kernel_table
from onnxgpt.graphs.targets import graph_form
from onnxgpt.inspecting import describe, graph_line
from onnxgpt.models.catalog import pull
from onnxgpt.models.checkpoint import Checkpoint
from onnxgpt.models.gpt import GPT
from onnxgpt.quantize import quantize_bundle
from onnxgpt.quantize.quality import measure_quality
from onnxgpt.quantize.text_files import EvaluationText
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.errors import ExportError, ParityError
from onnxgpt.runtime.model import Model
from onnxgpt.runtime.session import Session

from ..conftest import FAIRYTALE_CHECKPOINT

# In log-probability: what a bundle is allowed, and what these small models keep within.
FLOAT16, BFLOAT16_WEIGHTS = 0.2, 0.5
SMALL = 0.05
MakeGPT = Callable[..., GPT]
MakeCheckpoint = Callable[..., Checkpoint]
Made = Callable[..., tuple[GPT, Bundle]]


@pytest.fixture(scope="module")
def made(
    configs: dict[str, Any],
    make_gpt: MakeGPT,
    make_checkpoint: MakeCheckpoint,
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    """Export one of `configs` for a target in a type, once: the eager GPT and the bundle."""
    done: dict[tuple[str, tuple[str, ...]], tuple[GPT, Bundle]] = {}

    def make(name: str, *form: str) -> tuple[GPT, Bundle]:
        if (name, form) not in done:
            gpt = make_gpt(**configs[name])
            out = tmp_path_factory.mktemp("half") / "bundle"
            done[name, form] = gpt, export_checkpoint(make_checkpoint(gpt), out, form=graph_form(*form))
        return done[name, form]

    return make


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return torch.log_softmax(torch.tensor(np.asarray(logits, np.float64)), -1).numpy()


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("llama", ("cpu", "fused", "float16")),
        ("gpt2", ("cpu", "standard", "float16")),
        ("windows, soft caps, norms on both sides, local rotary", ("cpu", "standard", "float16")),
        ("llama", ("cuda", "fused", "float16")),
        ("alibi, norm on the embedding", ("cuda", "fused", "float16")),
        ("llama", ("dml", "fused", "float16")),
    ],
    ids=str,
)
def test_a_float16_bundle_is_the_model_within_its_tolerance(made: Made, name: str, form: tuple[str, ...]) -> None:
    gpt, bundle = made(name, *form)
    ids = np.random.default_rng(3).integers(0, gpt.config.vocab_size, (1, 40))
    with torch.inference_mode():
        expected = gpt(torch.tensor(ids), torch.ones((1, 40), dtype=torch.int64))[0][0].numpy()
    session = Session.open_bundle(bundle)
    assert (session.spec.logits_dtype, session.spec.layout.dtype) == (np.float16, np.float16)
    with session.new_cache(capacity=40) as cache:
        found = [*session.step(ids[:, :30], cache, keep=0)[0].copy()]
        found += [session.step(ids[:, step : step + 1], cache)[0, 0].copy() for step in range(30, 40)]
    ours, theirs = log_softmax(np.array(found)), log_softmax(expected)
    assert 1e-5 < np.abs(ours - theirs).max() <= SMALL
    chosen = theirs[np.arange(40), ours.argmax(-1)]
    assert (theirs.max(-1) - chosen <= SMALL).all()

    graph, parity = bundle.manifest.graph, bundle.manifest.parity
    assert (graph.target, graph.operators, graph.dtype) == form
    assert parity is not None
    assert parity["passed"]
    assert parity["tolerance"] == FLOAT16
    if session.provider == "cpu":  # a graph for a device that is not here is proven on the CPU, and says so
        assert parity["runtime"].endswith(", cpu")


def test_bfloat16_without_a_device_is_proven_by_its_weights_and_says_so(made: Made) -> None:
    gpt, bundle = made("llama", "cuda", "fused", "bfloat16")
    parity = bundle.manifest.parity
    assert parity is not None
    weights = parity["runtime"].endswith(", cpu: bfloat16 weights in float32 arithmetic")
    assert weights or parity["runtime"].endswith(", cuda")
    assert parity["tolerance"] == (BFLOAT16_WEIGHTS if weights else 1.6)
    largest = max(case["max_log_probability_difference"] for case in parity["cases"])
    assert 2e-3 < largest <= BFLOAT16_WEIGHTS

    model = ir.load(bundle.graph_path)
    types = {str(value.name): value.dtype for value in (*model.graph.inputs, *model.graph.outputs)}
    assert types["past_key_values.0.key"] == types["present.1.value"] == ir.DataType.BFLOAT16
    assert types["logits"] == ir.DataType.FLOAT
    stored = model.graph.initializers["blocks.1.mlp.down.weight"].const_value
    assert stored is not None
    expected = gpt.state_dict()["blocks.1.mlp.down.weight"].bfloat16().float().numpy()
    np.testing.assert_array_equal(np.asarray(stored.numpy(), np.float32), expected)


def test_parity_of_half_precision_is_proven_again_and_refused_against_another_model(
    made: Made, configs: dict[str, Any], make_gpt: MakeGPT, make_checkpoint: MakeCheckpoint
) -> None:
    gpt, bundle = made("llama", "cpu", "fused", "float16")
    assert prove_parity(bundle, make_checkpoint(gpt)).passed
    other = make_gpt(**configs["llama"])
    weights = dict(gpt.state_dict())
    weights["blocks.1.mlp.down.weight"] = weights["blocks.1.mlp.down.weight"] * 2
    other.load_state_dict(weights)
    assert not prove_parity(bundle, make_checkpoint(other)).passed


def overflowing(make_gpt: MakeGPT, configs: dict[str, Any]) -> GPT:
    """Every weight fits float16; what the last MLP adds to the residual stream does not."""
    gpt = make_gpt(**configs["llama"])
    with torch.no_grad():
        gpt.blocks[1].mlp.down.weight.mul_(50_000.0 / gpt.blocks[1].mlp.down.weight.abs().max())
        gpt.blocks[1].mlp.up.weight.mul_(8.0)
    return gpt


@pytest.mark.parametrize(
    ("form", "advice"),
    [
        (("cpu", "fused", "float16"), "export --dtype float32$"),
        (("cuda", "fused", "float16"), "export --dtype bfloat16 or --dtype float32 --operators standard$"),
    ],
    ids=["cpu", "cuda"],
)
def test_logits_that_overflow_are_found_and_the_error_says_what_to_export(
    make_gpt: MakeGPT,
    configs: dict[str, Any],
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    form: tuple[str, ...],
    advice: str,
) -> None:
    checkpoint = make_checkpoint(overflowing(make_gpt, configs))
    with pytest.raises(ParityError, match=rf"tiny overflows float16: blocks\.1\.mlp\.down reaches .*{advice}"):
        export_checkpoint(checkpoint, tmp_path / "out", form=graph_form(*form))
    assert list(tmp_path.iterdir()) == []


def test_a_residual_stream_that_float16_can_not_hold_is_kept_in_float32(
    make_gpt: MakeGPT, configs: dict[str, Any], make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """Both tables fit float16, and their sum does not. Quantizing keeps the stream as wide."""
    gpt = make_gpt(**configs["gpt2"] | {"tied_head": False})
    with torch.no_grad():
        for table in (gpt.token_embedding.weight, gpt.position_embedding.weight):
            table.mul_(5000 / table.std())
            table[:, 0] = 40_000
    bundle = export_checkpoint(make_checkpoint(gpt), tmp_path / "out", form=graph_form("cuda"))
    graph, parity = bundle.manifest.graph, bundle.manifest.parity
    assert (graph.dtype, graph.wide_residual) == ("float16", True)
    assert parity is not None
    assert parity["passed"]
    assert "float16, residual stream in float32" in graph_line(describe(bundle)["graph"], {})

    small = quantize_bundle(bundle.directory, tmp_path / "int8", accept_quality=True)
    assert small.manifest.graph.wide_residual
    assert np.isfinite(Model.load(small.directory).logits([3, 5, 8])).all()


def test_a_stream_that_float16_holds_stays_in_float16(made: Made) -> None:
    assert not made("llama", "cuda", "fused", "float16")[1].manifest.graph.wide_residual


def test_what_overflows_float16_is_exported_in_bfloat16(
    make_gpt: MakeGPT, configs: dict[str, Any], make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(overflowing(make_gpt, configs))
    bundle = export_checkpoint(checkpoint, tmp_path / "out", form=graph_form("cuda", "fused", "bfloat16"))
    assert bundle.manifest.parity is not None
    assert bundle.manifest.parity["passed"]


def test_a_weight_that_float16_does_not_hold_is_refused_by_its_name(
    make_gpt: MakeGPT, configs: dict[str, Any], make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    gpt = make_gpt(**configs["llama"])
    with torch.no_grad():
        gpt.blocks[0].mlp.down.weight[3, 4] = -1e5
    with pytest.raises(ExportError, match=r"blocks\.0\.mlp\.down\.weight holds 1e\+05, and float16 ends at 65504"):
        export_checkpoint(make_checkpoint(gpt), tmp_path / "out", form=graph_form(dtype="float16"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("llama", "fused"),
        ("llama", "standard"),
        ("gpt2", "fused"),
        ("windows, soft caps, norms on both sides, local rotary", "fused"),
        ("alibi, norm on the embedding", "fused"),
        ("rotary outside", "fused"),
    ],
    ids=str,
)
def test_cuda_has_kernels_for_every_node(
    configs: dict[str, Any], make_gpt: MakeGPT, name: str, operators: str, dtype: str
) -> None:
    model = export_graph(make_gpt(**configs[name]), graph_form("cuda", operators, dtype)).model
    table = kernel_table("cuda")
    assert table is not None
    placed = place_nodes(model, table, advice="")
    kinds = Counter(node.op_type for node in model.graph if node.name in placed.device)
    assert kinds["MatMul"] + kinds["FusedMatMul"] >= 8


def test_alibi_goes_without_the_attention_of_cuda_which_takes_no_bias(made: Made) -> None:
    _, bundle = made("alibi, norm on the embedding", "cuda", "fused", "float16")
    kinds = {node.op_type for node in ir.load(bundle.graph_path).graph}
    assert "GroupQueryAttention" not in kinds
    assert "SkipLayerNormalization" in kinds


def test_genai_config_names_the_provider(made: Made) -> None:
    """As onnxruntime-genai's documentation has it: a list of objects, each of one provider and its options."""

    def providers(*form: str) -> Any:
        text = (made("llama", *form)[1].directory / "genai_config.json").read_text()
        return json.loads(text)["model"]["decoder"]["session_options"]["provider_options"]

    cuda = {"enable_cuda_graph": "0", "enable_skip_layer_norm_strict_mode": "1"}
    assert providers("cuda", "fused", "float16") == [{"cuda": cuda}]
    assert providers("dml", "fused", "float16") == [{"dml": {}}]
    assert providers("cpu", "fused", "float16") == []


@pytest.mark.parametrize(("family", "operators"), [("llama", "fused"), ("gpt2", "standard")])
def test_a_float16_bundle_gives_the_text_and_the_log_probabilities_of_transformers(
    save_transformers: Callable[..., tuple[Any, Path]], tmp_path: Path, family: str, operators: str
) -> None:
    """Weights are half as large as elsewhere in these tests, where PyTorch's own float16 is 0.09 from its float32."""
    judge, directory = save_transformers(family)
    with torch.no_grad():
        for parameter in judge.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.5)
    judge.save_pretrained(directory)
    bundle = export_bundle(directory, tmp_path / "bundle", dtype="float16", operators=operators)
    model = Model.load(bundle.directory)
    prompt = np.random.default_rng(1).integers(1, 300, 20).tolist()
    with torch.no_grad():
        text = judge.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=32)[0].tolist()
        expected = log_softmax(judge(torch.tensor([text])).logits[0].numpy())
    completion = model.generate(prompt, temperature=0, max_new_tokens=32)[0]
    generated = [*completion.token_ids, 0][: len(text) - len(prompt)]  # the end of text is not among the tokens
    differing = [step for step, pair in enumerate(zip(generated, text[len(prompt) :], strict=True)) if len({*pair}) > 1]
    if differing:  # only at a tie
        row = expected[len(prompt) + differing[0] - 1]
        assert row.max() - row[generated[differing[0]]] <= SMALL
    assert np.abs(log_softmax(model.logits(text)) - expected).max() <= SMALL


@pytest.mark.slow
def test_the_fairytale_model_in_float16(tmp_path: Path, full_bundle: Bundle) -> None:
    bundle = export_bundle(FAIRYTALE_CHECKPOINT, tmp_path / "bundle", dtype="float16")
    assert bundle.weight_bytes < 0.51 * full_bundle.weight_bytes
    prompt = "Once upon a time there lived a king"
    texts = [
        Model.load(each.directory).generate(prompt, temperature=0, max_new_tokens=40)[0].text
        for each in (bundle, full_bundle)
    ]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_smollm2_in_float16_answers_as_in_float32_with_hardly_a_loss(tmp_path: Path) -> None:
    pull("smollm2-135m-instruct")
    full = export_bundle("smollm2-135m-instruct", tmp_path / "full")
    half = export_bundle("smollm2-135m-instruct", tmp_path / "half", dtype="float16")
    assert half.manifest.parity is not None
    assert max(case["max_log_probability_difference"] for case in half.manifest.parity["cases"]) <= FLOAT16
    model = Model.load(half.directory)
    answer = model.generate(model.chat_prompt("What is the capital of France?"), temperature=0, max_new_tokens=20)[0]
    assert answer.text == "The capital of France is Paris."
    report = measure_quality(half, full, EvaluationText.packaged("evaluation"), tokens=2048, layers=False)
    assert report.mean_kl < 1e-4
    assert report.top1_agreement > 0.99
