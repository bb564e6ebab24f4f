"""Exporting as a whole: what is refused, what is left behind, what is reported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgpt.export import export_bundle, pipeline, prove_parity
from onnxgpt.export.graph import assert_standard_nodes, trace_gpt
from onnxgpt.export.passes import FUSED_PASSES, run_passes
from onnxgpt.models.checkpoint import Checkpoint
from onnxgpt.models.gpt import GPT
from onnxgpt.runtime.bundle import WEIGHTS_FILE, Bundle
from onnxgpt.runtime.errors import BundleError, ExportError, OptionError, OutputExistsError, ParityError

MakeGPT = Callable[..., GPT]
MakeCheckpoint = Callable[..., Checkpoint]


def test_an_existing_output_is_refused_before_the_source_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError, match="--force"):
        export_bundle("no such model anywhere", tmp_path / "out")


@pytest.mark.parametrize("options", [{"dtype": "int3"}, {"operators": "quick"}, {"target": "npu"}])
def test_unknown_options_are_refused(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(OptionError, match="expected"):
        export_bundle("no such model anywhere", tmp_path / "out", **options)  # type: ignore[arg-type]


def test_a_graph_that_computes_something_else_leaves_no_bundle(
    configs: dict[str, Any],
    make_gpt: MakeGPT,
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write_and_disturb(model: Any, directory: Path) -> None:
        pipeline_write(model, directory)
        weights = np.memmap(directory / WEIGHTS_FILE, np.float32, "r+")
        weights[:64] += 0.1
        weights.flush()

    pipeline_write = pipeline.write_model
    monkeypatch.setattr(pipeline, "write_model", write_and_disturb)
    with pytest.raises(ParityError, match=r"prefill: log-probabilities differ by .*expected at most 0\.001"):
        pipeline.export_checkpoint(make_checkpoint(make_gpt(**configs["gpt2"])), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_force_replaces_a_bundle_and_progress_is_told(
    exported: Callable[..., tuple[GPT, Bundle]], make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    gpt, _ = exported("llama")
    told: list[str] = []
    first = pipeline.export_checkpoint(make_checkpoint(gpt, "first"), tmp_path / "out")
    second = pipeline.export_checkpoint(
        make_checkpoint(gpt, "second"),
        tmp_path / "out",
        force=True,
        progress=lambda message, fraction: told.append(message),
    )
    assert (first.manifest.name, second.manifest.name) == ("first", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert told[:2] == ["exporting the graph", "writing the weights"]
    second.verify_hashes()


def test_killed_in_the_middle_no_bundle_remains_and_the_next_run_succeeds(
    save_transformers: Callable[..., tuple[Any, Path]], tmp_path: Path
) -> None:
    _, source = save_transformers("gpt2")
    out = tmp_path / "out"
    script = (
        "import sys, time\n"
        "from onnxgpt.export import export_bundle\n"
        "def report(message, fraction):\n"
        "    print(message, flush=True)\n"
        "    if message.startswith('comparing'):\n"
        "        time.sleep(600)\n"
        "export_bundle(sys.argv[1], sys.argv[2], progress=report)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, source, out], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("comparing"):
            assert process.poll() is None
        process.kill()
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == 1
    assert left[0].endswith(".partial")
    assert (tmp_path / left[0] / WEIGHTS_FILE).stat().st_size > 0

    export_bundle(source, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(BundleError):
        Bundle.open(tmp_path / left[0])


def test_parity_is_proven_against_a_source_and_refused_against_another(
    exported: Callable[..., tuple[GPT, Bundle]],
    configs: dict[str, Any],
    make_gpt: MakeGPT,
    make_checkpoint: MakeCheckpoint,
) -> None:
    gpt, bundle = exported("llama")
    assert prove_parity(bundle, make_checkpoint(gpt)).passed

    weights = dict(gpt.state_dict())
    weights["blocks.1.mlp.down.weight"] = weights["blocks.1.mlp.down.weight"] * 1.05
    other = make_gpt(**configs["llama"])
    other.load_state_dict(weights)
    report = prove_parity(bundle, make_checkpoint(other))
    assert not report.passed
    assert any(line.startswith("single steps: log-probabilities differ") for line in report.failures())

    wider = make_gpt(**(configs["llama"] | {"intermediate_size": 64}))
    with pytest.raises(ParityError, match="intermediate_size 48 and the source 64"):
        prove_parity(bundle, make_checkpoint(wider))


def test_a_graph_of_fused_operators_is_not_taken_for_a_standard_one(configs: dict[str, Any], make_gpt: MakeGPT) -> None:
    model, shares_cache_buffer = trace_gpt(make_gpt(**configs["llama"]), "fused")
    assert shares_cache_buffer
    run_passes(model, FUSED_PASSES)
    with pytest.raises(ExportError, match="SimplifiedLayerNormalization"):
        assert_standard_nodes(model)


def test_importing_export_and_its_passes_loads_no_torch() -> None:
    script = "import sys, onnxgpt.export.passes; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
