"""Every family's graphs for CUDA and DirectML against these providers' tables of kernels, node by node.

No device is needed, so none is claimed: that the kernels compute what the CPU's compute is for a test with a device.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from onnxgpt.export import export_bundle
from onnxgpt.export.graph import export_graph
from onnxgpt.graphs.kernel_check import place_nodes
from onnxgpt.graphs.kernel_table import kernel_table
from onnxgpt.graphs.targets import graph_form
from onnxgpt.models.checkpoint import build_gpt, open_checkpoint
from onnxgpt.models.config import GPTConfig
from onnxgpt.quantize import quantize_bundle
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.errors import OptionError, QuantizationError
from onnxgpt.runtime.model import Model

from .cases import Case, all_cases
from .judging import save, tiny_model

TEXT = "In a kingdom by the sea there lived a miller who had three sons, a mill, a donkey and a cat. " * 40
DTYPE = "float16"
# Whose first case's attention is more than DirectML's operator knows: ALiBi, windows or soft caps.
WRITTEN_OUT = {"bloom", "gemma2", "gemma3_text", "gpt_neo"}


def cases_of_both_runs(*quick: str) -> list[object]:
    """Every case; those after a family's first, or of other families than `quick`, are for the slow run."""
    cases = all_cases()
    firsts = {case.model_type: case for case in reversed(cases) if case.model_type in quick}
    return [
        pytest.param(case, id=str(case), marks=[] if case in firsts.values() else [pytest.mark.slow]) for case in cases
    ]


@pytest.mark.parametrize("case", cases_of_both_runs("bloom", "gemma2", "gpt2", "llama", "opt", "phi"))
def test_directml_has_kernels_for_every_family_in_float16(case: Case, tmp_path: Path) -> None:
    model, shares_cache_buffer, config = exported(case, tmp_path, "dml", "float16")
    placement = place_nodes(model, kernel_table("dml"), advice="…")

    assert arithmetic_only(model, placement.host)
    assert not any(node.op_type == "ScatterElements" for node in model.graph)
    is_more = config.position == "alibi" or config.attention_softcap is not None or config.head_size % 8 != 0
    narrow = any(0 < window < config.context_length for window in config.windows)
    fused = any(node.op_type == "GroupQueryAttention" for node in model.graph)
    assert shares_cache_buffer == fused == (not is_more and not narrow)


def first_cases(*quick: str) -> list[object]:
    """The first case of every family; those of other families than `quick` are for the slow run."""
    firsts = {case.model_type: case for case in reversed(all_cases())}
    return [
        pytest.param(case, id=name, marks=[] if name in quick else [pytest.mark.slow]) for name, case in firsts.items()
    ]


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", first_cases("bloom", "gemma2", "gpt2", "llama"))
def test_cuda_has_kernels_for_every_family(case: Case, dtype: str, tmp_path: Path) -> None:
    model, *_ = exported(case, tmp_path, "cuda", dtype)
    placement = place_nodes(model, kernel_table("cuda"), advice="…")

    assert arithmetic_only(model, placement.host)


@pytest.mark.parametrize("model_type", ["gpt2", "bloom"])
def test_directml_graphs_run_on_the_cpu_and_are_the_model_of_pytorch(model_type: str, tmp_path: Path) -> None:
    """As those of every family, which are exported and judged the same way before they are quantized below."""
    case = next(case for case in all_cases() if case.model_type == model_type)
    source = save(tiny_model(case.model_type, case.settings), tmp_path / "source")
    bundle = export_bundle(source, tmp_path / "bundle", target="dml", dtype=DTYPE)
    assert_proven(bundle, model_type)


def assert_proven(bundle: Bundle, model_type: str) -> None:
    """The very bundle that DirectML is given; its export has compared it with PyTorch, here on the CPU's kernels."""
    graph = bundle.manifest.graph

    assert (graph.target, graph.dtype, graph.operators) == ("dml", DTYPE, "fused")
    assert graph.chunked_prefill == (not graph.shares_cache_buffer) == (model_type in WRITTEN_OUT)
    assert bundle.manifest.parity is not None
    assert bundle.manifest.parity["passed"]
    cases = [each["name"] for each in bundle.manifest.parity["cases"]]
    assert {"prefill", "single steps", "ragged batch"} <= set(cases)
    assert ("chunked prefill" in cases) == graph.chunked_prefill


def quantized_cases() -> list[object]:
    """Every family's first case with int4 and int8-static, and two with int8; a few are for the quick run."""
    quick = {("gpt2", "int4"), ("gpt2", "int8-static"), ("llama", "int4")}
    firsts = {case.model_type: case for case in reversed(all_cases())}
    return [
        pytest.param(
            case, recipe, operators, id=f"{name}-{recipe}", marks=[] if (name, recipe) in quick else [pytest.mark.slow]
        )
        for name, case in firsts.items()
        for recipe, operators in (("int4", "fused"), ("int8", "fused"), ("int8-static", "standard"))
        if recipe != "int8" or name in ("gpt2", "llama")
    ]


@pytest.mark.parametrize(("case", "recipe", "operators"), quantized_cases())
def test_quantized_graphs_for_directml_have_kernels_and_run(
    case: Case, recipe: str, operators: str, tmp_path: Path
) -> None:
    source = save(tiny_model(case.model_type, case.settings), tmp_path / "source")
    bundle = export_bundle(source, tmp_path / "bundle", target="dml", dtype=DTYPE, operators=operators)
    if operators == "fused":
        assert_proven(bundle, case.model_type)
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    fields = {"raise_share": 0.0} if recipe == "int4" else {}  # without measuring what the matrices bear
    options = {"calibration": text, "evaluation": text, "accept_quality": True}
    made = quantize_bundle(bundle.directory, tmp_path / "made", recipe=recipe, **options, **fields)
    model = ir.load(made.graph_path)
    placement = place_nodes(model, kernel_table("dml"), advice="…")

    assert arithmetic_only(model, placement.host)
    kinds = {node.op_type for node in model.graph}
    assert ("MatMulNBits" in kinds) == (operators == "fused")
    assert ({"QuantizeLinear", "DequantizeLinear"} <= kinds) == (operators == "standard")
    assert made.manifest.quality is not None
    assert 0 < made.manifest.quality["mean_kl"] < (1 if recipe == "int4" else 0.1)


@pytest.fixture(scope="module")
def plain_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """GPT-2 for DirectML, with its attention operator."""
    directory = tmp_path_factory.mktemp("dml")
    case = next(case for case in all_cases() if case.model_type == "gpt2")
    source = save(tiny_model(case.model_type, case.settings), directory / "source")
    return export_bundle(source, directory / "bundle", target="dml", dtype=DTYPE)


@pytest.mark.parametrize(
    ("recipe", "fields", "found"),
    [
        ("int8-dynamic", {}, "int8-dynamic: choose int8, int4, auto or int8-static$"),
        ("cache", {}, "cache: choose int8, int4, auto or int8-static$"),
        ("int8", {"kv_cache": "int8"}, "int8 with an 8-bit cache: choose int8, int4, auto or int8-static without it$"),
        ("int8-static", {}, "--operators standard --target dml --out DIR$"),
    ],
)
def test_recipes_without_kernels_are_refused_by_name(
    plain_bundle: Bundle, recipe: str, fields: dict[str, str], found: str, tmp_path: Path
) -> None:
    with pytest.raises(QuantizationError, match=found):
        quantize_bundle(plain_bundle.directory, tmp_path / "out", recipe=recipe, **fields)

    assert not (tmp_path / "out").exists()


def test_several_tokens_on_a_past_are_kept_from_directmls_attention(plain_bundle: Bundle) -> None:
    model = Model.load(plain_bundle.directory)

    assert not model.bundle.manifest.graph.chunked_prefill
    with pytest.raises(OptionError, match=r"chunked_prefill is false.*--target dml --operators standard"):
        model.generate([1, 2, 3], prompt_lookup_num_tokens=2, max_new_tokens=4)
    with pytest.raises(OptionError, match=r"chunked_prefill is false.*--target dml --operators standard"):
        model.generate([1, 2, 3], assistant=Model.load(plain_bundle.directory), max_new_tokens=4)
    assert len(model.generate([1, 2, 3], max_new_tokens=4)[0].token_ids) == 4


def test_a_mask_as_long_as_the_buffers_gives_the_same_logits(plain_bundle: Bundle) -> None:
    """So a program on DirectML can keep all shapes for all steps, where each new one costs a compilation."""
    capacity, prompt = 64, 12
    ids = np.random.default_rng(0).integers(1, 300, (1, 20))
    session = onnxruntime.InferenceSession(str(plain_bundle.graph_path), providers=["CPUExecutionProvider"])
    pasts = {item.name: item for item in session.get_inputs() if item.name.startswith("past_key_values.")}

    def logits(*, whole_mask: bool) -> list[np.ndarray]:
        """Of a prompt and of steps behind it, past and present in one buffer each."""
        dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(
                np.full((1, item.shape[1], capacity, item.shape[3]), 7, dtype[item.type])
            )
            for name, item in pasts.items()
        }
        results = []
        for start, stop in [(0, prompt), *((place, place + 1) for place in range(prompt, ids.shape[1]))]:
            binding = session.io_binding()
            mask = np.arange(capacity if whole_mask else stop)[None] < stop
            binding.bind_cpu_input("input_ids", ids[:, start:stop])
            binding.bind_cpu_input("attention_mask", mask.astype(np.int64))
            binding.bind_output("logits")
            for name, value in values.items():
                binding.bind_ortvalue_input(name, value)
                binding.bind_ortvalue_output(name.replace("past_key_values.", "present."), value)
            session.run_with_iobinding(binding)
            results.append(binding.get_outputs()[0].numpy())
        return results

    for grown, whole in zip(logits(whole_mask=False), logits(whole_mask=True), strict=True):
        np.testing.assert_array_equal(whole, grown)


def exported(case: Case, directory: Path, target: str, dtype: str) -> tuple[ir.Model, bool, GPTConfig]:
    """The graph of a case as it would be written, whether past and present may be one buffer, and what it is of."""
    checkpoint = open_checkpoint(save(tiny_model(case.model_type, case.settings), directory / "source"))
    form = graph_form(target, "fused", dtype)
    graph = export_graph(build_gpt(checkpoint), form)
    return graph.model, graph.shares_cache_buffer, checkpoint.config


def arithmetic_only(model: ir.Model, names: tuple[str, ...]) -> bool:
    """Whether these nodes multiply no matrix and look nothing up in one: all that the CPU is left with."""
    nodes = [node for node in model.graph if (node.name or str(node.outputs[0].name)) in names]
    heavy = {"MatMul", "Gemm", "FusedMatMul", "MatMulNBits", "Softmax", "GroupQueryAttention", "LayerNormalization"}
    return len(nodes) == len(names) and not any(node.op_type in heavy for node in nodes)
