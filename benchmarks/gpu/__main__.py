"""Decoding on a GPU: bundles in several precisions beside PyTorch eager in one run, and beside the memory's bound.

    python benchmarks/gpu --checkpoint SmolLM2-135M-Instruct --rounds 10

What is compared takes turns in random order; ratios are taken round by round against PyTorch, and their median counts.
The bound is the device's bandwidth, measured by copying 1 GiB from one buffer of its memory to another (bytes read and
written, over time), over the bytes that a token takes. A GPT-2 of 1.56 billion random parameters, made on the spot,
stands for models that memory bounds; `--without-large` leaves it out. Memory in use is compared between an eighth of a
long text and its end.

`--provider cpu --tiny` runs all of it with tiny sizes where there is no GPU, which tells nothing but whether it runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402  # only now is the package found
from safetensors import safe_open  # noqa: E402

import onnxgpt  # noqa: E402
from gpu.checkpoints import TINY, XL, write_random_gpt2  # noqa: E402
from gpu.contestants import Contestant, Ours, Torch  # noqa: E402
from gpu.measuring import (  # noqa: E402
    copy_bandwidth,
    describe_device,
    in_turns,
    memory_growth,
    ratios,
    share_of_bound,
)
from onnxgpt.export import export_bundle  # noqa: E402
from onnxgpt.quantize import quantize_bundle  # noqa: E402
from onnxgpt.runtime.engine import ort  # noqa: E402

_RECIPES = ("float16", "int8", "int4")


def make_bundles(checkpoint: Path, recipes: list[str], directory: Path) -> dict[str, Path]:
    """The checkpoint for CUDA in float16, and quantized by recipes; their quality is not this benchmark's affair."""
    full = directory / "float16"
    export_bundle(checkpoint, full, target="cuda")
    bundles = {"float16": full}
    for recipe in recipes:
        if recipe != "float16":
            quantize_bundle(full, directory / recipe, recipe=recipe, accept_quality=True)
            bundles[recipe] = directory / recipe
    return {name: bundles[name] for name in recipes}


def compare(
    checkpoint: Path, bundles: dict[str, Path], options: argparse.Namespace, bandwidth: float, memory_tokens: int
) -> dict[str, Any]:
    """Speeds of PyTorch and of all bundles in turns, without CUDA graphs and with them."""
    device = "cuda" if options.provider == "cuda" else "cpu"
    base = Torch(checkpoint, device, torch.float16 if device == "cuda" else torch.float32)
    ours = [Ours(name, path, options.provider) for name, path in bundles.items()]
    if options.provider == "cuda":
        ours += [Ours(f"{name}, CUDA graph", path, "cuda", cuda_graph=True) for name, path in bundles.items()]
    prompt = [7 + index * 7919 % 250 for index in range(options.prompt_tokens)]
    contestants: list[Contestant] = [base, *ours]
    speeds = in_turns(contestants, prompt, options.new_tokens, options.rounds)
    context = options.prompt_tokens + options.new_tokens // 2
    result: dict[str, Any] = {
        "tokens_per_second": {name: [round(each, 1) for each in values] for name, values in speeds.items()},
        "speed_beside_pytorch": ratios(speeds, base.name),
        "bound": {each.name: share_of_bound(each, context, speeds[each.name], bandwidth) for each in ours},
    }
    if memory_tokens:
        result["memory_growth"] = {
            each.name: memory_growth(each.model, prompt, memory_tokens, options.provider) for each in ours
        }
    return result


def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """All figures as what is printed."""
    device = "cuda" if options.provider == "cuda" else "cpu"
    bandwidth = copy_bandwidth(device, 4 if options.tiny else 1024, passes=5 if options.tiny else 20)
    result: dict[str, Any] = {
        "device": describe_device(device),
        "versions": {"onnxgpt": onnxgpt.__version__, "onnxruntime": ort.__version__, "torch": torch.__version__},
        "prompt_tokens": options.prompt_tokens,
        "new_tokens": options.new_tokens,
        "copy_bytes_per_second": round(bandwidth),
    }
    checkpoint = options.checkpoint or write_random_gpt2(directory / "small", TINY)
    bundles = make_bundles(checkpoint, options.recipes, directory / "small-bundles")
    found = compare(checkpoint, bundles, options, bandwidth, options.memory_tokens)
    result["checkpoint"] = {"name": checkpoint.name, **found}
    if not options.without_large:
        large = write_random_gpt2(directory / "large", TINY if options.tiny else XL)
        bundles = make_bundles(large, ["float16"], directory / "large-bundles")
        found = compare(large, bundles, options, bandwidth, memory_tokens=0)
        result["random GPT-2"] = {"parameters": parameters(large), **found}
    return result


def parameters(checkpoint: Path) -> int:
    """How many numbers a checkpoint of safetensors holds."""
    files = [safe_open(path, "numpy") for path in sorted(checkpoint.glob("*.safetensors"))]
    return sum(math.prod(file.get_slice(name).get_shape()) for file in files for name in file.keys())  # noqa: SIM118


@contextmanager
def workspace(given: Path | None) -> Iterator[Path]:
    """Where checkpoints and bundles are made: a directory that stays, or one that is removed."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a directory of Hugging Face's layout, such as SmolLM2's")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--recipes", nargs="+", choices=_RECIPES, default=list(_RECIPES))
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--memory-tokens", type=int, default=2000, help="of the long text; 0: none")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--without-large", action="store_true", help="leave the random GPT-2 out")
    parser.add_argument("--workspace", type=Path, help="an empty directory to keep what is made in")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes throughout: does it run?")
    options = parser.parse_args()
    if options.tiny:
        options.prompt_tokens, options.new_tokens, options.memory_tokens, options.rounds = 8, 16, 200, 2
    elif options.checkpoint is None:
        parser.error("--checkpoint is missing: give a checkpoint's directory, or --tiny")
    if options.provider == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no CUDA device here: give --provider cpu --tiny to see whether the benchmark runs")
    with workspace(options.workspace) as directory:
        print(json.dumps(measure(options, directory), indent=1))


if __name__ == "__main__":
    main()
