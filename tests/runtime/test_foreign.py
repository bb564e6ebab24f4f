"""What others exported: loaded as it lies there, it gives what the same model gives from a bundle of ours."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

import onnxgpt
from onnxgpt.cli import onnxgpt as command
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.errors import BundleError, MemoryLimitError, OnnxGptError, OptionError, OutputExistsError
from onnxgpt.runtime.foreign import import_directory, open_any

from .foreign_graphs import (
    cache_branch,
    depends_on_the_piece,
    half_precision,
    named,
    open_head_size,
    position_ids,
    scalar_logits_to_keep,
    without_logits_to_keep,
    write_foreign,
    write_genai_config,
)

PROMPTS = ["Once upon a time", "The wolf", "There was a king who had a daughter, and she was the most beautiful of all"]
OPTIMUM = (without_logits_to_keep, position_ids)
MERGED = (*OPTIMUM, cache_branch, named("past_key_values.{layer}.decoder.{kind}", "present.{layer}.decoder.{kind}"))
VARIANTS = {
    "optimum": OPTIMUM,
    "merged": MERGED,
    "half": (*OPTIMUM, half_precision),
    "scalar": (scalar_logits_to_keep, position_ids),
    "underscores": (without_logits_to_keep, named("past_{kind}_{layer}", "present_{kind}_{layer}")),
    "genai": (without_logits_to_keep, open_head_size),
    "genai with positions": (*OPTIMUM, open_head_size),
}


@pytest.fixture(scope="module", params=VARIANTS)
def foreign(request, full_bundle, tmp_path_factory):
    """A loaded model from a directory without a manifest, and the name of what it is like."""
    directory = tmp_path_factory.mktemp("foreign") / "tales"
    write_foreign(full_bundle, directory, *VARIANTS[request.param], data="model.onnx_data")
    if request.param.startswith("genai"):
        write_genai_config(directory, shares=True)
    return onnxgpt.load(directory, threads=2), request.param


@pytest.fixture(scope="module")
def optimum(full_bundle, tmp_path_factory):
    return write_foreign(full_bundle, tmp_path_factory.mktemp("optimum") / "tales", *OPTIMUM)


def greedy(model, prompts, **options):
    found = model.generate(prompts, do_sample=False, max_new_tokens=20, **options)
    return [completion.token_ids for completion in found]


@pytest.fixture(scope="module")
def expected(fairytale):
    return [greedy(fairytale, prompt)[0] for prompt in PROMPTS]


def test_text_alone_and_in_batches_of_unequal_prompts(foreign, expected):
    model, _ = foreign
    assert [greedy(model, prompt)[0] for prompt in PROMPTS] == expected
    assert greedy(model, PROMPTS) == expected
    assert greedy(model, PROMPTS, batch_size=2) == expected


def test_logits_score_and_candidates(foreign, fairytale):
    model, kind = foreign
    tolerance = 2e-2 if kind == "half" else 1e-4
    text = PROMPTS[2]
    ids = fairytale.tokenizer.encode(text)
    np.testing.assert_allclose(model.logits(ids), fairytale.logits(ids), atol=tolerance * 5)
    assert model.score(text).total == pytest.approx(fairytale.score(text).total, abs=tolerance * len(ids))
    ours, theirs = (m.score(text, [" in the land.", " of frogs", "."]) for m in (fairytale, model))
    assert [s.total for s in theirs] == pytest.approx([s.total for s in ours], abs=tolerance * 10)
    windows = {"window": 12, "stride": 6}
    assert model.score(text, **windows).total == pytest.approx(
        fairytale.score(text, **windows).total, abs=tolerance * len(ids)
    )


def test_beams_and_several_sequences(foreign, fairytale):
    model, _ = foreign
    assert greedy(model, PROMPTS[0], num_beams=3) == greedy(fairytale, PROMPTS[0], num_beams=3)
    sampled = {"num_return_sequences": 3, "seed": 5, "max_new_tokens": 12, "do_sample": True, "temperature": 1.0}
    sampled |= {"top_k": 20, "top_p": 1.0}
    ours, theirs = ([c.token_ids for c in m.generate(PROMPTS[1], **sampled)] for m in (fairytale, model))
    assert theirs == ours


def test_the_context_slides(foreign, fairytale):
    model, _ = foreign
    long = fairytale.tokenizer.encode(" ".join(PROMPTS) * 40)[:508]
    sliding = {"context_end": "slide", "context_keep": 4, "do_sample": False, "max_new_tokens": 12}
    ours, theirs = (m.generate(long, **sliding)[0].token_ids for m in (fairytale, model))
    assert len(theirs) == 12
    assert theirs == ours


def test_buffers_are_shared_only_where_a_file_says_so(foreign):
    model, kind = foreign
    assert model.session.shares_cache_buffer == kind.startswith("genai")
    assert model.session.new_cache().shares_buffer == kind.startswith("genai")


def test_a_genai_config_that_says_nothing_of_sharing(full_bundle, tmp_path, expected):
    directory = write_foreign(full_bundle, tmp_path / "tales", without_logits_to_keep, open_head_size)
    write_genai_config(directory, shares=False)
    model = onnxgpt.load(directory, threads=2)
    assert not model.session.shares_cache_buffer
    assert greedy(model, PROMPTS) == expected


def test_defaults_of_generation_come_from_genai_config(full_bundle, tmp_path):
    directory = write_foreign(full_bundle, tmp_path / "tales", without_logits_to_keep, open_head_size)
    end = json.loads((directory / "generation_config.json").read_text())["eos_token_id"]
    write_genai_config(directory, shares=True)
    bundle = open_any(directory)
    told = {"bos_token_id": 0, "eos_token_id": end, "do_sample": True, "temperature": 0.5, "top_k": 7}
    assert bundle.read_json("generation_config.json") == told
    imported = import_directory(directory, tmp_path / "bundle")
    assert imported.read_json("generation_config.json") == told
    assert onnxgpt.load(imported.directory).generation_defaults == told


def test_guessing_waits_for_the_proof_that_pieces_are_read_as_the_whole(optimum, tmp_path, fairytale):
    prompt = "the wolf and the fox and the wolf and the fox and the"
    model = onnxgpt.load(optimum, threads=2)
    with pytest.raises(OptionError, match="chunked_prefill is false"):
        greedy(model, prompt, prompt_lookup_num_tokens=3)

    imported = import_directory(optimum, tmp_path / "bundle")
    assert imported.manifest.graph.chunked_prefill
    model = onnxgpt.load(imported.directory, threads=2)
    assert greedy(model, prompt, prompt_lookup_num_tokens=3) == greedy(fairytale, prompt)
    long = fairytale.tokenizer.encode(" ".join(PROMPTS) * 20)[:400]  # more than one chunk
    assert greedy(model, long) == greedy(fairytale, long)


def test_a_graph_that_reads_pieces_otherwise_is_read_at_once(full_bundle, tmp_path):
    directory = write_foreign(full_bundle, tmp_path / "tales", *OPTIMUM, depends_on_the_piece)
    bundle = import_directory(directory, tmp_path / "bundle")
    assert not bundle.manifest.graph.chunked_prefill
    model = onnxgpt.load(bundle.directory, threads=2)
    long = model.tokenizer.encode(" ".join(PROMPTS) * 20)[:300]
    assert model.logits(long).shape == (300, 4096)


# Which of several graphs


@pytest.fixture
def several(full_bundle, tmp_path):
    """A directory as transformers.js expects it; only the quantized graph is whole, so the others' choice shows."""
    directory = write_foreign(full_bundle, tmp_path / "tales", *OPTIMUM, file="onnx/model_q4.onnx")
    return directory


def touch(directory, *names):
    for name in names:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(b"no graph")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([], "onnx/model_q4.onnx"),
        (["onnx/model_q4f16.onnx", "onnx/model_fp16.onnx", "onnx/model_bnb4.onnx"], "onnx/model_q4.onnx"),
        (["onnx/decoder_model_merged_quantized.onnx"], "onnx/decoder_model_merged_quantized.onnx"),
        (["onnx/model_int8.onnx", "onnx/model_uint8.onnx"], "onnx/model_int8.onnx"),
        (["onnx/model.onnx", "model_quantized.onnx"], "onnx/model.onnx"),
        (["onnx/model.onnx", "decoder_model_merged.onnx"], "decoder_model_merged.onnx"),
        (["model.onnx", "decoder_model_merged.onnx", "decoder_model.onnx"], "model.onnx"),
    ],
)
def test_the_order_of_choice(several, names, chosen):
    touch(several, *names)
    assert open_any(several).manifest.graph.file == chosen


def test_a_graph_is_chosen_by_its_path(several, expected):
    touch(several, "onnx/model.onnx", "onnx/model_int8.onnx")
    model = onnxgpt.load(several / "onnx" / "model_q4.onnx", threads=2)
    assert greedy(model, PROMPTS[0]) == expected[:1]
    assert model.bundle.manifest.source == {"kind": "transformers.js", "location": str(several)}


def test_genai_config_names_its_graph(full_bundle, tmp_path):
    directory = write_foreign(full_bundle, tmp_path / "tales", open_head_size, file="other.onnx")
    touch(directory, "model.onnx")
    write_genai_config(directory, shares=True, filename="other.onnx")
    assert open_any(directory).manifest.graph.file == "other.onnx"
    assert not open_any(directory / "model.onnx").manifest.graph.shares_cache_buffer  # said of the other one
    (directory / "other.onnx").unlink()
    with pytest.raises(BundleError, match=r"lacks other\.onnx, which genai_config\.json names"):
        open_any(directory)


def test_the_graph_of_a_bundle_of_ours_is_that_bundle(full_bundle):
    assert open_any(full_bundle.graph_path) == full_bundle


def test_memory_counts_the_weights_beside_the_graph(full_bundle, tmp_path):
    directory = write_foreign(full_bundle, tmp_path / "tales", *OPTIMUM, data="model.onnx_data")
    touch(directory, "model_q4.onnx")
    (directory / "model_q4.onnx_data").write_bytes(bytes(1 << 20))
    size = sum((directory / name).stat().st_size for name in ("model.onnx", "model.onnx_data"))
    bundle = open_any(directory)
    assert bundle.weight_bytes == size
    assert "model_q4.onnx_data" not in bundle.manifest.files
    with pytest.raises(MemoryLimitError):
        onnxgpt.load(directory, memory_limit=size - 1)


# What cannot work


def edited(full_bundle, directory, edit):
    def rewire(graph):
        edit(graph)

    return write_foreign(full_bundle, directory, *OPTIMUM, rewire)


def drop(side, *prefixes):
    def edit(graph):
        values = getattr(graph, side)
        for item in [item for item in values if item.name.startswith(prefixes)]:
            values.remove(item)
            if side == "input":  # what was fed is a constant now
                shape = [dim.dim_value or 1 for dim in item.type.tensor_type.shape.dim]
                element = helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
                graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, element), item.name))

    return edit


def add_input(name, element=TensorProto.INT64, shape=("batch", "sequence")):
    def edit(graph):
        graph.input.append(helper.make_tensor_value_info(name, element, shape))

    return edit


def one_token(graph):
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("input", "past"), "no past_key_values inputs.*--task text-generation-with-past"),
        (drop("output", "present.3"), r"no present\.3\.key"),
        (drop("input", "past_key_values.2.key"), "lacks the key of layer 2"),
        (drop("output", "logits"), "no logits"),
        (drop("input", "attention_mask"), "no attention_mask"),
        (add_input("encoder_hidden_states", TensorProto.FLOAT), "encoder_hidden_states: it is the decoder of an enc"),
        (add_input("token_type_ids"), "wants token_type_ids too"),
        (add_input("past_0", TensorProto.FLOAT, (2, "batch", 4, "past", 64)), r"cache of unknown layout, past_0 \[2"),
        (
            add_input("past_key_values.9.key_value", TensorProto.FLOAT, ("batch", "past", 128)),
            r"unknown layout, past_key_values\.9\.key_value",
        ),
        (one_token, "reads 1 token at a time.*merge_decoders"),
    ],
)
def test_a_graph_that_is_no_gpt_with_a_known_cache(full_bundle, tmp_path, edit, message):
    directory = edited(full_bundle, tmp_path / "tales", edit)
    with pytest.raises(BundleError, match=message) as refused:
        onnxgpt.load(directory)
    assert "\n" not in str(refused.value)
    with pytest.raises(BundleError, match=message):
        import_directory(directory, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tales"]


def change_config(name, **changes):
    def edit(directory):
        path = directory / name
        data = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    return edit


def without_a_context(directory):
    change_config("config.json", n_positions=None)(directory)
    change_config("tokenizer_config.json", model_max_length=int(1e30))(directory)  # transformers' way to say: unknown


def instead(*names):
    def edit(directory):
        (directory / "model.onnx").unlink()
        touch(directory, *names)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda directory: (directory / "tokenizer.json").unlink(), r"has no tokenizer\.json: save the tokenizer"),
        (without_a_context, "tells no context length.*n_positions"),
        (change_config("config.json", is_encoder_decoder=True), "encoder-decoder"),
        (lambda directory: (directory / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda directory: (directory / "config.json").write_text("[]"), r"config\.json holds list"),
        (lambda directory: (directory / "model.onnx").write_bytes(b"?"), r"model\.onnx can't be loaded"),
        (instead("encoder_model.onnx", "decoder_model_merged.onnx"), r"encoder-decoder model \(encoder_model\.onnx"),
        (instead("decoder_model.onnx", "decoder_with_past_model.onnx"), "a decoder in two graphs.*merge_decoders"),
        (instead("a.onnx", "b.onnx"), r"holds a\.onnx, b\.onnx: say which one by giving its path"),
        (instead("readme.txt"), r"has no bundle\.json"),
    ],
)
def test_a_directory_that_lacks_something(optimum, tmp_path, edit, message):
    directory = shutil.copytree(optimum, tmp_path / "tales")
    edit(directory)
    with pytest.raises(BundleError, match=message) as refused:
        onnxgpt.load(directory)
    assert "\n" not in str(refused.value)


def test_a_genai_config_cannot_name_a_file_outside(optimum, tmp_path):
    directory = shutil.copytree(optimum, tmp_path / "tales")
    write_genai_config(directory, shares=True, filename="../other.onnx")
    with pytest.raises(BundleError, match="do not trust"):
        open_any(directory)


def test_an_open_head_size_needs_a_config(full_bundle, tmp_path):
    directory = write_foreign(full_bundle, tmp_path / "tales", *OPTIMUM, open_head_size)
    assert onnxgpt.load(directory).session.spec.layout.layers[0] == (4, 64)
    change_config("config.json", n_embd=None)(directory)
    with pytest.raises(BundleError, match=r"nor a config file tells head_size: put the model's config\.json"):
        onnxgpt.load(directory)


# Import


@pytest.mark.parametrize("kind", ["merged", "genai"])
def test_an_import_is_a_bundle(full_bundle, tmp_path, expected, kind):
    source = write_foreign(full_bundle, tmp_path / "tales", *VARIANTS[kind], data="model.onnx.data")
    if kind == "genai":
        write_genai_config(source, shares=True)
    bundle = import_directory(source, tmp_path / "bundle")

    assert bundle == Bundle.open(tmp_path / "bundle")
    bundle.verify_hashes()
    manifest = bundle.manifest
    assert manifest.source["location"] == str(source)
    assert manifest.source["kind"] == ("onnxruntime-genai" if kind == "genai" else "optimum")
    facts = {"num_layers": 6, "num_heads": 4, "num_kv_heads": 4, "head_size": 64, "context_length": 512}
    assert facts.items() <= manifest.architecture.items()
    assert manifest.graph.foreign
    assert "input_ids" in manifest.graph.inputs
    assert (bundle.graph_path.read_bytes()) == (source / "model.onnx").read_bytes()
    shutil.rmtree(source)
    assert greedy(onnxgpt.load(bundle.directory, threads=2), PROMPTS) == expected


def test_what_is_there_is_not_replaced_and_a_bundle_is_not_imported(optimum, full_bundle, tmp_path):
    import_directory(optimum, tmp_path / "bundle")
    with pytest.raises(OutputExistsError, match="--force"):
        import_directory(optimum, tmp_path / "bundle")
    import_directory(optimum, tmp_path / "bundle", force=True)
    for source in (full_bundle.directory, tmp_path / "bundle", full_bundle.graph_path):
        with pytest.raises(BundleError, match="is a bundle already"):
            import_directory(source, tmp_path / "again")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_imports_are_not_quantized(optimum, tmp_path):
    from onnxgpt.quantize import quantize_bundle

    bundle = import_directory(optimum, tmp_path / "bundle")
    with pytest.raises(OnnxGptError, match=r"exported by others \(optimum\)"):
        quantize_bundle(bundle.directory, tmp_path / "small")


# The command line


def run(*arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_command_that_reads_a_bundle_reads_it(optimum, tmp_path, fairytale):
    greedily = ("--no-do-sample", "--max-new-tokens", 8)
    written = fairytale.generate(PROMPTS[0], do_sample=False, max_new_tokens=8)[0].text
    assert run("generate", PROMPTS[0], "--model", optimum, *greedily) == written + "\n"
    assert json.loads(run("score", PROMPTS[0], "--model", optimum, "--json"))["tokens"] == len(
        fairytale.tokenizer.encode(PROMPTS[0])
    )
    told = json.loads(run("info", optimum, "--json"))
    assert told["source"] == {"kind": "optimum", "location": str(optimum)}
    assert told["bytes"]["cache_per_token"] == 2 * 6 * 4 * 64 * 4
    assert told["architecture"]["num_layers"] == 6
    assert "as laid out by optimum" in run("info", optimum)
    figures = json.loads(
        run("bench", "--model", optimum, "--json", "--repeat", 1, "--prompt-tokens", 8, "--new-tokens", 4)
    )
    assert figures
    against = ("--against", fairytale.bundle.directory, "--tokens", 128, "--window", 64, "--json")
    judged = json.loads(run("score", "--model", optimum, *against))
    assert judged["mean_kl"] == pytest.approx(0, abs=1e-6)

    assert run("import", optimum, "--out", tmp_path / "bundle").strip() == str(tmp_path / "bundle")
    assert run("generate", PROMPTS[0], "--model", tmp_path / "bundle", *greedily) == written + "\n"
    assert "as they were written" in run("verify", tmp_path / "bundle")
    assert str(optimum) in run("info", tmp_path / "bundle")
