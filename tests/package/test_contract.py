"""The contract: it says of the graphs what ONNX Runtime says, and what it says is enough to write a client."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxgpt.export.package.contract import CONTRACT_FILE, CONTRACT_PAGE
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.engine import ort

TYPES = {"int64": np.int64, "float": np.float32, "uint8": np.uint8}


@pytest.fixture(scope="module")
def contract(packaged_fairytale: Bundle) -> dict[str, Any]:
    return packaged_fairytale.read_json(CONTRACT_FILE)


@pytest.fixture(scope="module")
def vectors(packaged_fairytale: Bundle) -> dict[str, Any]:
    return packaged_fairytale.read_json("vectors.json")


def test_graphs_are_described_as_onnxruntime_describes_them(
    packaged_fairytale: Bundle, contract: dict[str, Any]
) -> None:
    assert list(contract["graphs"]) == ["model.onnx", "generate.onnx", "text.onnx"]
    for name, graph in contract["graphs"].items():
        session = ort.InferenceSession(packaged_fairytale.directory / name, providers=["CPUExecutionProvider"])
        required = [value for value in graph["inputs"] if not value["optional"]]
        for described, found in ((required, session.get_inputs()), (graph["outputs"], session.get_outputs())):
            told = [(value["name"], f"tensor({value['type']})", value["shape"]) for value in described]
            assert told == [(value.name, value.type, value.shape) for value in found]
        optional = {value["name"] for value in graph["inputs"] if value["optional"]}
        assert optional == {value.name for value in session.get_overridable_initializers()}


def test_the_page_tells_of_every_input_and_output(packaged_fairytale: Bundle, contract: dict[str, Any]) -> None:
    page = (packaged_fairytale.directory / CONTRACT_PAGE).read_text(encoding="utf-8")
    for graph in contract["graphs"].values():
        for value in graph["inputs"] + graph["outputs"]:
            if not value["name"].startswith(("past_key_values.", "present.")):
                assert f"| `{value['name']}` | {value['type']} |" in page
    assert "$" not in page


def test_a_loop_written_from_the_contract_alone_gives_the_vectors_texts(
    packaged_fairytale: Bundle, contract: dict[str, Any], vectors: dict[str, Any]
) -> None:
    graph = contract["graphs"]["model.onnx"]
    session = ort.InferenceSession(packaged_fairytale.directory / "model.onnx", providers=["CPUExecutionProvider"])
    cases = [case for case in vectors["texts"] if not case["options"]["do_sample"] and len(case["options"]) == 2]
    assert cases
    for case in cases:
        pasts = {
            value["name"]: np.zeros([{"batch": 1, "past_sequence": 0}.get(size, size) for size in value["shape"]], "f")
            for value in graph["inputs"]
            if value["name"].startswith("past_key_values.")
        }
        new, seen, text = case["prompt_ids"], 0, []
        while len(text) < case["options"]["max_new_tokens"]:
            seen += len(new)
            feeds = {"input_ids": np.array([new]), "attention_mask": np.ones((1, seen), np.int64)}
            names = [value["name"] for value in graph["outputs"]]
            results = dict(zip(names, session.run(names, feeds | pasts), strict=True))
            pasts = {name: results[name.replace("past_key_values", "present")] for name in pasts}
            new = [int(results["logits"][0, -1].argmax())]
            text += new
        assert text == case["ids"]


def test_the_settings_that_an_empty_vector_stands_for_are_told(
    packaged_fairytale: Bundle, contract: dict[str, Any]
) -> None:
    """Given as they are told, they change nothing."""
    session = ort.InferenceSession(packaged_fairytale.directory / "generate.onnx", providers=["CPUExecutionProvider"])
    types = {value["name"]: TYPES[value["type"]] for value in contract["graphs"]["generate.onnx"]["inputs"]}
    empty = {name: np.zeros(0, types[name]) for name in contract["settings"]}
    given = {
        name: np.array(value if isinstance(value, list) else [value], types[name])
        for name, value in contract["settings"].items()
    }
    assert set(types) == {"prompt_ids", *contract["settings"]}
    texts = [session.run(None, {"prompt_ids": np.array([5, 6, 7]), **feeds}) for feeds in (empty, given)]
    assert len(texts[0][0]) > 1
    assert [result.tolist() for result in texts[0]] == [result.tolist() for result in texts[1]]


def test_the_random_numbers_are_those_of_the_page_s_formula(vectors: dict[str, Any]) -> None:
    """Written down here from CONTRACT.md, line by line."""
    word, turns = 2**32, (13, 15, 26, 6, 17, 29, 16, 24)
    for case in vectors["random"]:
        seed = int(case["seed"])
        k = [seed % word, seed // word]
        k.append(k[0] ^ k[1] ^ 0x1BD11BDA)
        x0, x1 = (case["step"] + k[0]) % word, (case["sequence"] + k[1]) % word
        for i in range(20):
            x0 = (x0 + x1) % word
            turn = turns[i % 8]
            x1 = ((x1 << turn | x1 >> (32 - turn)) % word) ^ x0
            if i % 4 == 3:
                j = i // 4 + 1
                x0, x1 = (x0 + k[j % 3]) % word, (x1 + k[(j + 1) % 3] + j) % word
        assert case["words"] == [x0, x1]
        assert case["number"] == (x0 >> 8) / 2**24


def test_both_files_are_members_of_the_bundle(packaged_fairytale: Bundle) -> None:
    assert {CONTRACT_FILE, CONTRACT_PAGE} <= packaged_fairytale.manifest.files.keys()
