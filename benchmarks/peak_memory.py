"""Peak memory of generating, above what importing the libraries takes, beside the weights and the cache.

Every case runs in a process of its own, whose peak the system tells (Linux and macOS). The last one generates the same
with ONNX Runtime's pre-packing of matrices off: the difference is what pre-packing costs.

    python benchmarks/peak_memory.py smol --prompt-tokens 512 --new-tokens 128
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from onnxgpt.benchmarking import peak_memory
from onnxgpt.loading import find_bundle, load
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.graph_spec import read_spec
from onnxgpt.runtime.memory import MemoryBudget
from onnxgpt.runtime.model import Model
from onnxgpt.runtime.session import Session
from onnxgpt.runtime.tokenizer import Tokenizer

CASES = ("libraries", "load", "generate", "generate without pre-packing")


def run_case(case: str, bundle: str, prompt_tokens: int, new_tokens: int) -> dict[str, int | None]:
    """Do what a case says in this process; bytes."""
    cache = 0
    if case != "libraries":
        model = load_without_pre_packing(bundle) if case.endswith("pre-packing") else load(bundle)
        if case.startswith("generate"):
            prompt = [index * 7919 % model.session.spec.vocab_size for index in range(prompt_tokens)]
            found = model.generate(prompt, do_sample=False, max_new_tokens=new_tokens, eos_token_id=())
            assert found[0].completion_tokens == new_tokens
            cache = model.session.spec.layout.bytes_per_token() * (prompt_tokens + new_tokens)
    return {"peak": peak_memory(), "cache": cache}


def load_without_pre_packing(name: str) -> Model:
    """A model whose matrices stay as they lie in the file, which ONNX Runtime maps into memory."""
    bundle = Bundle.open(find_bundle(name))
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    bare = ort.InferenceSession(str(bundle.graph_path), options)
    shares = bundle.manifest.graph.shares_cache_buffer
    session = Session(bare, read_spec(bare), shares_cache_buffer=shares, budget=MemoryBudget())
    return Model(bundle, session, Tokenizer(bundle.tokenizer_path))


def main() -> None:
    """Run every case in a process of its own and print JSON, in bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run_case(options.case, options.bundle, options.prompt_tokens, options.new_tokens)))
        return
    found = {}
    for case in CASES:
        done = subprocess.run([sys.executable, *sys.argv, "--case", case], capture_output=True, text=True, check=True)
        found[case] = json.loads(done.stdout)
    weights = sum(path.stat().st_size for path in find_bundle(options.bundle).glob("model.onnx*"))
    libraries = found["libraries"]["peak"]
    cache = found["generate"]["cache"]
    above = found["generate"]["peak"] - libraries
    result = {
        "weights": weights,
        "cache": cache,
        "peak": {case: value["peak"] for case, value in found.items()},
        "generate_above_libraries": above,
        "bound_twice_weights_plus_cache": 2 * weights + cache,
        "generate_above_libraries_over_weights": round((above - cache) / weights, 3),
        "pre_packing": found["generate"]["peak"] - found["generate without pre-packing"]["peak"],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
