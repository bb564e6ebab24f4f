"""Tokenizer files of Hugging Face directories: carried over, mended or converted; always checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer

from onnxgpt.models.checkpoint import open_checkpoint
from onnxgpt.runtime.errors import CheckpointError
from onnxgpt.runtime.tokenizer import StreamDecoder
from onnxgpt.runtime.tokenizer import Tokenizer as RuntimeTokenizer

from .conftest import edit_json

Copy = Callable[[str], Path]
FAIRYTALE = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint"
TEXT = "Once upon a time, the King's 3 daughters  said: “naïve Löwe” 你好 🦊\n"


def settings_of(directory: Path) -> dict:
    return json.loads(open_checkpoint(directory).files["tokenizer_config.json"])


def test_the_generic_class_gets_the_name_that_transformers_4_knows(copy_of: Copy) -> None:
    directory = copy_of("gpt2")
    assert settings_of(directory)["tokenizer_class"] == "PreTrainedTokenizerFast"
    edit_json(directory / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    assert settings_of(directory)["tokenizer_class"] == "GPT2Tokenizer"
    (directory / "tokenizer_config.json").unlink()
    assert settings_of(directory)["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_special_tokens_named_in_the_older_file_alone_are_kept(copy_of: Copy) -> None:
    directory = copy_of("gpt2")
    older = {"bos_token": "<|begin|>", "eos_token": "<|other|>", "additional_special_tokens": []}
    (directory / "special_tokens_map.json").write_text(json.dumps(older))
    settings = settings_of(directory)
    assert (settings["bos_token"], settings["eos_token"]) == ("<|begin|>", "<|end|>")


def test_chat_templates_are_found_in_all_their_places(copy_of: Copy) -> None:
    directory = copy_of("gpt2")
    assert "chat_template.jinja" not in open_checkpoint(directory).files
    edit_json(directory / "tokenizer_config.json", chat_template="inline")
    assert open_checkpoint(directory).files["chat_template.jinja"] == b"inline"
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    edit_json(directory / "tokenizer_config.json", chat_template=several)
    assert open_checkpoint(directory).files["chat_template.jinja"] == b"plain"
    (directory / "chat_template.jinja").write_text("of its own")
    assert open_checkpoint(directory).files["chat_template.jinja"] == b"of its own"


def test_generation_defaults_come_from_their_file_else_from_the_config(copy_of: Copy) -> None:
    directory = copy_of("llama")
    own = (directory / "generation_config.json").read_bytes()
    assert open_checkpoint(directory).files["generation_config.json"] == own
    (directory / "generation_config.json").unlink()
    edit_json(directory / "config.json", eos_token_id=[0, 7], temperature=0.5, top_k=None)
    generation = json.loads(open_checkpoint(directory).files["generation_config.json"])
    assert generation == {"bos_token_id": 0, "eos_token_id": [0, 7], "temperature": 0.5}


def test_vocabulary_and_merges_are_converted_to_the_same_ids(copy_of: Copy) -> None:
    """A GPT-2 directory of the older kind, whose ids the tokenizer.json it was made from gives."""
    directory = copy_of("gpt2")
    whole = json.loads((FAIRYTALE / "tokenizer.json").read_text())["model"]
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.json").write_text(json.dumps(whole["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in whole["merges"]]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    edit_json(directory / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", eos_token="<|endoftext|>")
    with pytest.raises(CheckpointError, match="300 rows"):  # the tiny model's embedding
        open_checkpoint(directory)
    converted = _with_vocabulary(directory, 4096)
    expected = Tokenizer.from_file(str(FAIRYTALE / "tokenizer.json"))
    assert converted.encode(TEXT).ids == expected.encode(TEXT).ids
    assert converted.decode(converted.encode(TEXT).ids) == TEXT


def test_a_beginning_of_text_that_a_directory_asks_for_is_kept(copy_of: Copy) -> None:
    """OPT's directories have GPT-2's kind of files, and `add_bos_token`."""
    directory = copy_of("gpt2")
    whole = json.loads((FAIRYTALE / "tokenizer.json").read_text())["model"]
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.json").write_text(json.dumps(whole["vocab"] | {"</s>": 4096}))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in whole["merges"]]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    ends = {name: {"content": "</s>", "__type": "AddedToken"} for name in ("bos_token", "eos_token", "unk_token")}
    edit_json(directory / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", add_bos_token=True, **ends)
    converted = _with_vocabulary(directory, 4097)
    expected = Tokenizer.from_file(str(FAIRYTALE / "tokenizer.json")).encode(TEXT).ids
    assert converted.encode(TEXT).ids == [4096, *expected]
    assert converted.encode(TEXT, add_special_tokens=False).ids == expected


def test_the_tokenizer_of_gpt_1_is_converted(copy_of: Copy, tmp_path: Path) -> None:
    """Lower case, accents taken off, words end in </w>; ids and text are those of transformers 4.57's slow class."""
    directory = copy_of("gpt2")
    letters = "abcdefghijklmnopqrstuvwxyz.,!'"
    pieces = ["<unk>", *(letter + end for letter in letters for end in ("", "</w>")), "th", "the</w>", "on"]
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer_config.json").unlink()
    (directory / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (directory / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\no n\n")
    gpt_1 = transformers.OpenAIGPTConfig(n_embd=32, n_layer=1, n_head=4, n_positions=16, vocab_size=64)
    transformers.OpenAIGPTLMHeadModel(gpt_1).save_pretrained(directory)
    files = open_checkpoint(directory).files
    converted = Tokenizer.from_str(files["tokenizer.json"].decode())
    ids = converted.encode("The Lion, naïve!\nthe on 3").ids
    assert ids == [62, 23, 17, 29, 28, 56, 27, 1, 17, 43, 10, 58, 62, 29, 28, 0]
    assert converted.decode(ids) == "the lion , naive ! the on"  # the 3 is unknown

    path = tmp_path / "tokenizer.json"
    path.write_bytes(files["tokenizer.json"])
    runtime = RuntimeTokenizer(path)
    stream = StreamDecoder(runtime)
    assert "".join([*(stream.push(number) for number in ids), stream.flush()]) == runtime.decode(ids)


def _with_vocabulary(directory: Path, size: int) -> Tokenizer:
    """The tokenizer of the directory, its model replaced by one with `size` rows."""
    from .conftest import tiny_model

    tiny_model("gpt2", vocab_size=size).save_pretrained(directory)
    files = open_checkpoint(directory).files
    assert json.loads(files["tokenizer_config.json"])["tokenizer_class"] == "PreTrainedTokenizerFast"
    return Tokenizer.from_str(files["tokenizer.json"].decode())


def test_transformers_reads_the_files_back(copy_of: Copy, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, content in open_checkpoint(copy_of("gpt2")).files.items():
        (out / name).write_bytes(content)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(tokenizer(TEXT).input_ids) == TEXT
    assert tokenizer.eos_token == "<|end|>"
    assert transformers.AutoConfig.from_pretrained(out).n_embd == 32


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda path: path.unlink(), "has no tokenizer"),
        (lambda path: path.write_text("{}"), "no tokenizer"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "no tokenizer"),
        (lambda path: edit_json(path, model={"type": "BPE", "vocab": {"a": 300}, "merges": []}), "300 rows"),
    ],
)
def test_missing_and_foreign_tokenizers_are_refused(copy_of: Copy, damage: Callable[[Path], object], part: str) -> None:
    directory = copy_of("gpt2")
    damage(directory / "tokenizer.json")
    with pytest.raises(CheckpointError, match=part):
        open_checkpoint(directory)


def test_a_sentencepiece_model_that_cannot_be_read_is_refused(copy_of: Copy) -> None:
    directory = copy_of("llama")
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer.model").write_bytes(b"no model")
    edit_json(directory / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    with pytest.raises(CheckpointError, match=r"tokenizer\.model cannot be converted"):
        open_checkpoint(directory)
