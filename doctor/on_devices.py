"""The self-test on devices beside the CPU: a product, and on CUDA the embedded model in half precision.

The embedded bundle is made for the CPU, and CUDA's attention wants half precision: the graph is rewritten as export and
quantize do it, in a scratch directory, where onnx-ir is installed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..runtime.devices import devices_of
from .findings import Finding
from .selftest import selftest_findings

_SIZE = 1024  # of the square matrices that are multiplied
_REPEATS = 20
_WORST_ERROR = 5e-3  # of the product's largest value: tensor cores may round float32 to 10 bits (TF32)
_ADVICE = "update the device's driver; if that does not help, use --provider cpu and report it"


def device_findings(providers: list[str]) -> Iterator[Finding]:
    """The self-test on each provider that has a device.

    Args:
        providers: ONNX Runtime's names of those in the installed build.
    """
    from ..runtime.providers import PROVIDERS

    for provider in PROVIDERS.values():
        if provider.name == "cpu" or provider.runtime_name not in providers or not devices_of(provider.name):
            continue
        yield product_finding(provider.name)
        if provider.name == "cuda":
            yield from half_findings("cuda")


def product_finding(provider: str) -> Finding:
    """Multiply two matrices in float32 there, and compare with numpy."""
    import numpy as np

    from ..runtime.errors import OnnxGptError
    from ..runtime.manifest import GraphRecord
    from ..runtime.opening import open_graph
    from ..runtime.settings import SessionSettings
    from .product_graph import float_product

    name = f"self-test on {provider}: product"
    generator = np.random.default_rng(0)
    rows, weights = (generator.standard_normal((_SIZE, _SIZE), np.float32) for _ in range(2))
    record = GraphRecord(operators="standard", target=provider)
    try:
        session, place = open_graph(float_product(weights), record, SessionSettings(provider=provider))
        found = session.run(["y"], {"x": rows})[0]
    except (OnnxGptError, RuntimeError) as error:
        return Finding(name, "fault", f"a product can't be run: {' '.join(str(error).split())[:300]}", _ADVICE)
    expected = rows @ weights
    error_found = float(np.abs(found - expected).max() / np.abs(expected).max())
    least = min(_timed(session, rows) for _ in range(_REPEATS))
    facts = {"device": place.device_name, "error": error_found, "seconds": least, "size": _SIZE}
    if not error_found <= _WORST_ERROR:
        shown = f"a product is {error_found:.2%} off numpy's, expected {_WORST_ERROR:.1%} at most"
        return Finding(name, "fault", shown, _ADVICE, facts=facts)
    rate = 2 * _SIZE**3 / least / 1e9
    shown = f"within {error_found:.1e} of numpy's on {place}, {rate:,.0f} GFLOP/s with the way there and back"
    return Finding(name, "ok", shown, facts=facts)


def half_findings(provider: str) -> Iterator[Finding]:
    """The embedded model in float16 against PyTorch's vectors."""
    if find_spec("onnx_ir") is None or find_spec("onnx") is None:
        found = "the embedded model was not run there: rewriting it in float16 needs onnx and onnx-ir"
        command = 'pip install "onnxgpt[quantize]"'
        yield Finding(f"self-test on {provider}: parity", "note", found, "install them", (command,))
        return
    from ..loading import DEFAULT_MODEL, find_bundle, load

    with tempfile.TemporaryDirectory(prefix="onnxgpt-doctor-") as scratch:
        directory = half_bundle(find_bundle(DEFAULT_MODEL), Path(scratch) / "half", provider)
        yield from selftest_findings(lambda: load(directory, provider=provider), provider, _ADVICE)


def half_bundle(source: Path, directory: Path, target: str) -> Path:
    """A copy of a bundle in float16, made for another provider."""
    import onnx_ir as ir

    from ..graphs.precision import to_half
    from ..graphs.writing import write_model
    from ..runtime.bundle import GRAPH_FILE, WEIGHTS_FILE, Bundle, seal

    bundle = Bundle.open(source)
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns(GRAPH_FILE, WEIGHTS_FILE))
    model = ir.load(bundle.graph_path)
    to_half(model, "float16")
    write_model(model, directory)
    graph = replace(bundle.manifest.graph, dtype="float16", target=target)
    seal(directory, replace(bundle.manifest, graph=graph))
    return directory


def _timed(session: Any, rows: Any) -> float:
    before = time.perf_counter()
    session.run(["y"], {"x": rows})
    return time.perf_counter() - before
