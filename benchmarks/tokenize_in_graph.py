"""What tokenizing inside a graph costs: 1,000 characters of several kinds, beside the tokenizers library, in turns.

Random letters without a space are one word of hundreds of merges, which is the slowest there is. Medians; the ids of
both are compared on the way.

    python benchmarks/tokenize_in_graph.py smol-int8
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from tokenizers import Tokenizer

from onnxgpt.export.package.byte_level import read_byte_level
from onnxgpt.export.package.text_graphs import decode_model, encode_model
from onnxgpt.loading import find_bundle
from onnxgpt.runtime.session import PlainGraph

ROOT = Path(__file__).parents[1]


def samples(characters: int) -> dict[str, str]:
    """A text of each kind."""
    chance = random.Random(0)
    return {
        "English": (ROOT / "quantize" / "texts" / "evaluation.txt").read_text("utf-8")[:characters],
        "Chinese and Markdown": (ROOT / "README.zh-CN.md").read_text("utf-8")[:characters],
        "Python": Path(__file__).read_text("utf-8")[:characters],
        "spaces": " " * characters,
        "random Han characters, no punctuation": "".join(
            chr(chance.randrange(0x4E00, 0x9FA6)) for _ in range(characters)
        ),
        "random letters, no space": "".join(chance.choice("etaoinshrdlu") for _ in range(characters)),
    }


def milliseconds(step: Callable[[], object]) -> float:
    """The time of one call."""
    started = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", default="fairytale")
    parser.add_argument("--characters", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    path = find_bundle(arguments.bundle) / "tokenizer.json"
    started = time.perf_counter()
    tokenizer = read_byte_level(path)
    models = [encode_model(tokenizer).SerializeToString(), decode_model(tokenizer).SerializeToString()]
    made = time.perf_counter() - started
    encode, decode = (PlainGraph(model, path.parent, arguments.threads) for model in models)
    library = Tokenizer.from_file(str(path))
    print(f"made in {made:.1f} s: encode {len(models[0]) / 1e6:.2f} MB, decode {len(models[1]) / 1e6:.2f} MB")
    print(
        f"{'characters: ' + str(arguments.characters):<40} {'tokens':>7} {'encode':>10} {'library':>10} {'decode':>10}"
    )
    for kind, text in samples(arguments.characters).items():
        prompt = {"prompt": np.frombuffer(text.encode("utf-8"), np.uint8)}
        ids = encode.run(["prompt_ids"], prompt)["prompt_ids"]
        assert ids.tolist() == library.encode(text).ids, kind
        turns: tuple[Callable[[], object], ...] = (
            lambda prompt=prompt: encode.run(["prompt_ids"], prompt),
            lambda text=text: library.encode(text),
            lambda ids=ids: decode.run(["continuation"], {"generated_ids": ids}),
        )
        times = [[milliseconds(step) for step in turns] for _ in range(arguments.rounds)]
        columns = " ".join(f"{median(column):7.2f} ms" for column in zip(*times, strict=True))
        print(f"{kind:<40} {len(ids):7} {columns}")


if __name__ == "__main__":
    main()
