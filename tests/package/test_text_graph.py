"""Tokenizing inside a graph against the tokenizers library: ids one by one, and bytes."""

from __future__ import annotations

import codecs
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

import onnxgpt
from onnxgpt.export.package import package_bundle
from onnxgpt.export.package.byte_level import byte_letters, read_byte_level
from onnxgpt.export.package.text_graphs import decode_model, encode_model
from onnxgpt.loading import find_bundle
from onnxgpt.runtime.bundle import Bundle, seal
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.errors import BundleError, UnsupportedTokenizerError
from onnxgpt.runtime.session import PlainGraph

from .one_call import arrays, as_options
from .text_corpus import texts

FAIRYTALE = Path(__file__).parents[2] / "models" / "fairytale" / "bundle" / "tokenizer.json"
CONTRACTIONS, SPACES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"\s*[\r\n]+|\s+(?!\S)|\s+"
PLAIN_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = {**PLAIN_BYTES, "use_regex": True}


def split_by(pattern: str) -> dict[str, Any]:
    """A pre-tokenizer as Llama 3's and Qwen's tokenizer.json have it."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, PLAIN_BYTES]}


# As the published tokenizer.json of each has it.
PRE_TOKENIZERS = {
    "GPT-2 with a blank before": {**GPT2, "add_prefix_space": True},
    "SmolLM2": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, GPT2]},
    "Llama 3": split_by(
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
    ),
    "Qwen2": split_by(rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"),
}


class Halves:
    """encode and decode of one tokenizer.json, and the library on the same file."""

    def __init__(self, path: Path):
        tokenizer = read_byte_level(path)
        self.models = {"encode": encode_model(tokenizer), "decode": decode_model(tokenizer)}
        self._graphs = {
            name: PlainGraph(model.SerializeToString(), path.parent, 1) for name, model in self.models.items()
        }
        self.library = Tokenizer.from_file(str(path))
        self.token_bytes = tokenizer.token_bytes

    def encode(self, prompt: bytes) -> list[int]:
        ids: NDArray[np.int64] = self._graphs["encode"].run(
            ["prompt_ids"], {"prompt": np.frombuffer(prompt, np.uint8)}
        )["prompt_ids"]
        assert ids.dtype == np.int64
        return [int(number) for number in ids]

    def decode(self, ids: list[int]) -> bytes:
        given = {"generated_ids": np.array(ids, np.int64)}
        return self._graphs["decode"].run(["continuation"], given)["continuation"].tobytes()

    def assert_same(self, text: str) -> None:
        """Ids as the library's, and text as the library's from them."""
        encoding = self.library.encode(text)
        assert self.encode(text.encode()) == encoding.ids, (text, encoding.tokens)
        assert self.decode(encoding.ids).decode() == self.library.decode(encoding.ids)


Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Change], Path]:
    """Writes the embedded model's tokenizer.json with a change, in the given test's directory."""

    def write(change: Change) -> Path:
        stored = json.loads(FAIRYTALE.read_text(encoding="utf-8"))
        change(stored)
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(stored), encoding="utf-8")
        return path

    return write


def add_tokens(stored: dict[str, Any], *tokens: str, **flags: bool) -> None:
    first = stored["added_tokens"][0]
    known = len(stored["model"]["vocab"]) + len(stored["added_tokens"])
    stored["added_tokens"] += [
        {**first, "id": known + place, "content": token, **flags} for place, token in enumerate(tokens)
    ]


@pytest.fixture(scope="module")
def fairytale() -> Halves:
    return Halves(FAIRYTALE)


def test_two_thousand_texts_of_the_embedded_tokenizer(fairytale: Halves) -> None:
    for text in texts(2000, seed=1):
        fairytale.assert_same(text)


@pytest.mark.slow
def test_two_thousand_texts_of_smollm2(tmp_path: Path) -> None:
    from onnxgpt.models.catalog import pull
    from onnxgpt.models.checkpoint import open_checkpoint

    pull("smollm2-135m-instruct")
    path = tmp_path / "tokenizer.json"
    path.write_bytes(open_checkpoint("smollm2-135m-instruct").files["tokenizer.json"])
    halves = Halves(path)
    for text in [*texts(2000, seed=10), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"]:
        halves.assert_same(text)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_texts_cut_by_other_patterns(name: str, changed: Callable[[Change], Path]) -> None:
    halves = Halves(changed(lambda stored: stored.update(pre_tokenizer=PRE_TOKENIZERS[name])))
    for text in texts(1000, seed=2):
        halves.assert_same(text)


def test_a_long_text_of_one_word(fairytale: Halves) -> None:
    chance = random.Random(3)
    fairytale.assert_same("".join(chr(chance.randrange(0x4E00, 0x9FA5)) for _ in range(1000)))
    for letters in ("thaeinrso", "the", "ab", "thaeinrsodlucmpwyg😀从"):
        for length in (1000, 65, 64, 63):
            fairytale.assert_same("".join(chance.choice(letters) for _ in range(length)))


def test_arbitrary_ids_become_what_the_library_makes_of_them(fairytale: Halves) -> None:
    """Half of the ids stand for single bytes, most of them no characters; what the last ones leave open is left out."""
    chance = random.Random(4)
    for turn in range(1500):
        highest = 300 if turn % 2 else fairytale.library.get_vocab_size()
        ids = [chance.randrange(highest) for _ in range(chance.randrange(12))]
        raw = b"".join(fairytale.token_bytes[number] for number in ids if number != 0)
        assert fairytale.library.decode(ids) == raw.decode("utf-8", "replace")
        finished = codecs.getincrementaldecoder("utf-8")("replace").decode(raw)  # keeps back what may still go on
        assert fairytale.decode(ids).decode() == finished, ids


def test_ids_that_no_token_has_are_left_out(fairytale: Halves) -> None:
    ids = fairytale.library.encode("a princess").ids
    beyond = [fairytale.library.get_vocab_size(), 10**12, -1]
    assert fairytale.decode([*beyond, *ids, *beyond]) == b"a princess"
    assert fairytale.library.decode([*beyond[:1], *ids]) == "a princess"


def test_bytes_that_are_no_text_keep_their_tokens(fairytale: Halves) -> None:
    chance = random.Random(5)
    letters = byte_letters()
    for _ in range(300):
        raw = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 40)))
        tokens = [fairytale.library.id_to_token(number) for number in fairytale.encode(raw)]
        assert "".join(tokens) == "".join(letters[byte] for byte in raw)


def test_special_tokens_that_overlap(changed: Callable[[Change], Path]) -> None:
    """The leftmost one, and the longest of those that begin there, as they stand in the text."""
    tokens = ("  ", "   ", "QX", "QXc", "XcQ", "\n\n", "QQ", "从前X", "😀😀")
    halves = Halves(changed(lambda stored: add_tokens(stored, *tokens, special=False)))
    chance = random.Random(6)
    for _ in range(500):
        halves.assert_same("".join(chance.choice("QQXXc  \n😀从前") for _ in range(chance.randrange(30))))


def test_what_a_template_puts_around_a_text(changed: Callable[[Change], Path]) -> None:
    def change(stored: dict[str, Any]) -> None:
        begin = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
        stored["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}, begin],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
        }

    halves = Halves(changed(change))
    assert halves.encode(b"") == [0, 0]
    for text in texts(50, seed=7):
        halves.assert_same(text)


def test_bytes_that_the_vocabulary_does_not_have_are_dropped(changed: Callable[[Change], Path]) -> None:
    """As the library does without an unknown token: what stood around them is merged."""

    def change(stored: dict[str, Any]) -> None:
        model = stored["model"]
        model["merges"] = [merge for merge in model["merges"] if "q" not in "".join(merge)]
        model["vocab"] = {token: number for token, number in model["vocab"].items() if "q" not in token}

    halves = Halves(changed(change))
    assert halves.encode(b"tqhqe") == halves.encode(b"the")
    for text in ("q", "qq", "the qqqueen q", " q q", "qq<|endoftext|>q", "quiqk's"):
        halves.assert_same(text)


def test_only_operators_of_the_onnx_domain(fairytale: Halves) -> None:
    def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                yield from nodes(attribute.g)

    for model in fairytale.models.values():
        onnx.checker.check_model(model, full_check=True)
        assert {node.domain for node in nodes(model.graph)} == {""}


REFUSED: dict[str, Change] = {
    "the normalizer NFC": lambda stored: stored.update(normalizer={"type": "NFC"}),
    "the decoder Fuse": lambda stored: stored.update(decoder={"type": "Fuse"}),
    r"the pre-tokenizer Whitespace: expected": lambda stored: stored.update(pre_tokenizer={"type": "Whitespace"}),
    r"the pre-tokenizer Split by .*\+ ByteLevel": lambda stored: stored.update(pre_tokenizer=split_by(r"\p{L}+|.")),
    "no pre-tokenizer": lambda stored: stored.update(pre_tokenizer=None),
    "dropout 0.5": lambda stored: stored["model"].update(dropout=0.5),
    "'<m>' with lstrip": lambda stored: add_tokens(stored, "<m>", lstrip=True),
    "'<<|' which may overlap|'<<|', which may overlap": lambda stored: add_tokens(stored, "<<|", normalized=True),
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_cannot_be_expressed_is_refused_by_name(told: str, changed: Callable[[Change], Path]) -> None:
    path = changed(REFUSED[told])
    with pytest.raises(UnsupportedTokenizerError, match=told):
        encode_model(read_byte_level(path))


def test_other_models_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}))
    with pytest.raises(UnsupportedTokenizerError, match="a WordLevel model"):
        read_byte_level(path)


@pytest.mark.parametrize("seed", [1, 2])
def test_merges_in_another_order_than_learned(seed: int, changed: Callable[[Change], Path]) -> None:
    """Then a merge may make a pair that goes before the next occurrence of its own."""
    halves = Halves(changed(lambda stored: random.Random(seed).shuffle(stored["model"]["merges"])))
    for text in texts(300, seed=8):
        halves.assert_same(text)
    chance = random.Random(seed)
    for _ in range(30):  # one long word, which is merged in parts
        halves.assert_same(
            "".join(chance.choices(chance.choice(["eth", "thaeinrsodlu", "eeeth"]), k=chance.randrange(300)))
        )


@pytest.mark.parametrize("left_out", [1, 3, 10_000])
def test_words_that_are_tokens_are_taken_as_they_are(left_out: int, changed: Callable[[Change], Path]) -> None:
    """`ignore_merges`, as Llama 3 has it: with merges left out, merging does not lead to every token."""

    def change(stored: dict[str, Any]) -> None:
        model = stored["model"]
        model["ignore_merges"] = True
        model["merges"] = [merge for place, merge in enumerate(model["merges"], 1) if place % left_out or left_out > 99]

    halves = Halves(changed(change))
    for text in texts(300, seed=9):
        halves.assert_same(text)
    words = [token.decode("utf-8", "ignore") for token in halves.token_bytes[::5]]
    for word in words:
        halves.assert_same(word)
    halves.assert_same("".join(words) + "a")
    halves.assert_same(" ".join(words))


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is missing"):
        read_byte_level(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match="is no tokenizer"):
        read_byte_level(tmp_path / "tokenizer.json")


# text.onnx: the whole way


@pytest.fixture(scope="module")
def whole_text(packaged_fairytale: Bundle) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(packaged_fairytale.directory / "text.onnx"), options)


def continued(session: Any, prompt: str, **settings: Any) -> tuple[bytes, list[int], int]:
    feeds = arrays(settings)
    given = {"prompt": np.frombuffer(prompt.encode(), np.uint8)}
    text, ids, reason = session.run(["continuation", "generated_ids", "finish_reason"], given | feeds)
    return text.tobytes(), ids.tolist(), int(reason[0])


@pytest.mark.parametrize("prompt", ["Once upon a time", "The king's 3 sons<|endoftext|>", "从前有一位公主", "\n\n  "])
@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 0.9, "top_k": 50, "seed": 11}])
def test_text_in_text_out_as_the_stepwise_runtime(
    prompt: str, settings: dict[str, Any], whole_text: Any, packaged_fairytale: Bundle
) -> None:
    model = onnxgpt.load(packaged_fairytale.directory)
    text, ids, _ = continued(whole_text, prompt, max_new_tokens=40, **settings)
    (completion,) = model.generate(prompt, **as_options({"max_new_tokens": 40, **settings}))
    assert ids == list(completion.token_ids)
    assert text.decode() == completion.text.rstrip("\ufffd")


def test_the_token_that_ends_the_text_is_not_of_it(whole_text: Any, packaged_fairytale: Bundle) -> None:
    _, ids, _ = continued(whole_text, "Once upon a time", max_new_tokens=12, temperature=0.0)
    end = ids[-1]
    text, ended, reason = continued(whole_text, "Once upon a time", max_new_tokens=12, temperature=0.0, end_ids=[end])
    assert (ended, reason) == (ids[: ids.index(end) + 1], 1)
    library = Tokenizer.from_file(str(packaged_fairytale.directory / "tokenizer.json"))
    assert text.decode() == library.decode(ended[:-1])


def test_a_character_cut_at_the_end_is_left_out(whole_text: Any, packaged_fairytale: Bundle) -> None:
    """Sampled so that every token is as likely: some are the first byte of a character."""
    library = Tokenizer.from_file(str(packaged_fairytale.directory / "tokenizer.json"))
    cut = 0
    for seed in range(400):
        text, ids, _ = continued(whole_text, "a", max_new_tokens=1, temperature=1e6, top_k=0, top_p=1.0, seed=seed)
        theirs = library.decode(ids)
        assert theirs.startswith(text.decode())
        assert set(theirs[len(text.decode()) :]) <= {"\ufffd"}
        cut += len(theirs) > len(text.decode())
    assert cut > 0


def test_the_weights_are_shared(packaged_fairytale: Bundle) -> None:
    model = onnx.load(str(packaged_fairytale.directory / "text.onnx"), load_external_data=False)
    assert model.ByteSize() < 1_000_000
    assert set(packaged_fairytale.manifest.files) >= {"text.onnx", "generate.onnx"}


def test_a_bundle_of_another_tokenizer_is_packaged_without_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: Callable[[Change], Path]
) -> None:
    bundle = Bundle.open(find_bundle("fairytale"))
    source = tmp_path / "source"
    shutil.copytree(bundle.directory, source)
    shutil.copy(changed(lambda stored: stored.update(normalizer={"type": "NFC"})), source / "tokenizer.json")
    seal(source, bundle.manifest)
    made = package_bundle(source, tmp_path / "made")
    assert "text.onnx" not in made.manifest.files
    assert "generate.onnx" in made.manifest.files
    assert "text.onnx is left out: the tokenizer has the normalizer NFC" in caplog.text
