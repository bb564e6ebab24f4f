"""ONNX Runtime's own options of its providers: checked names and values, and what reaches it."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path

import pytest

from onnxgpt.runtime.errors import OptionError
from onnxgpt.runtime.provider_options import OPTIONS, REFUSED, provider_arguments
from onnxgpt.runtime.settings import SessionSettings


def arguments(provider: str, **given: object) -> dict[str, str]:
    return provider_arguments(SessionSettings(provider=provider, **given), provider)  # type: ignore[arg-type]


def test_what_a_provider_gets_where_nothing_is_given() -> None:
    assert provider_arguments(SessionSettings(), "cpu") == {}
    assert arguments("cuda") == {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_skip_layer_norm_strict_mode": "1",
        "use_tf32": "0",
    }
    assert arguments("dml") == {"device_id": "0"}


def test_settings_and_options_of_the_user_win() -> None:
    given = {"use_tf32": True, "gpu_mem_limit": "2GiB", "arena_extend_strategy": "knextpoweroftwo", "sdpa_kernel": 4}

    assert arguments("cuda", device=1, cuda_graph=True, provider_options=given) == {
        "device_id": "1",
        "enable_cuda_graph": "1",
        "enable_skip_layer_norm_strict_mode": "1",
        "use_tf32": "1",
        "gpu_mem_limit": str(2 << 30),
        "arena_extend_strategy": "kNextPowerOfTwo",
        "sdpa_kernel": "4",
    }
    assert arguments("cuda", provider_options={"device_id": 3})["device_id"] == "3"


def test_directml_reads_truths_as_words_and_always_gets_a_number() -> None:
    """Left to itself it takes an adapter by preference, while tensors are allocated by number."""
    assert arguments("dml", provider_options={"disable_metacommands": 1}) == {
        "device_id": "0",
        "disable_metacommands": "True",
    }
    assert provider_arguments(SessionSettings(provider="dml"), "dml", first_device=2)["device_id"] == "2"
    assert provider_arguments(SessionSettings(provider="dml", device=1), "dml", first_device=2)["device_id"] == "1"


@pytest.mark.parametrize(
    ("provider", "given", "message"),
    [
        ("cuda", {"gpu_mem_limt": 1}, "cuda has no provider option 'gpu_mem_limt': did you mean gpu_mem_limit"),
        ("cuda", {"colour": 1}, "cuda has no provider option 'colour': expected one of device_id, gpu_mem_limit"),
        ("cuda", {"disable_metacommands": 1}, "cuda has no provider option 'disable_metacommands'"),
        ("dml", {"use_tf32": 1}, "dml has no provider option 'use_tf32'"),
        ("cuda", {"use_tf32": 2}, "provider option use_tf32 is 2: expected 0 or 1"),
        ("cuda", {"device_id": "first"}, "provider option device_id is 'first': expected a whole number"),
        ("cuda", {"gpu_mem_limit": "much"}, "provider option gpu_mem_limit is 'much': expected bytes, or a number"),
        (
            "cuda",
            {"arena_extend_strategy": "some"},
            "arena_extend_strategy is 'some': expected kNextPowerOfTwo or kSameAsRequested",
        ),
        ("dml", {"device_filter": "gpu"}, "dml's provider option device_filter is not taken: a device is named by its"),
        ("cuda", {"user_compute_stream": 140234}, "option user_compute_stream is not taken: it takes an address"),
    ],
)
def test_an_unknown_option_or_value_is_refused(provider: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        arguments(provider, provider_options=given)


def test_every_option_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "providers.md").read_text(encoding="utf-8")

    assert {name for options in OPTIONS.values() for name in options} <= set(re.findall(r"`(\w+)`", page))


@pytest.mark.slow
def test_every_option_is_one_that_the_cuda_library_knows() -> None:
    """Its names are in the library of onnxruntime-gpu, which `ONNXGPT_PEERS` has."""
    found = [*Path(os.environ.get("ONNXGPT_PEERS", "nowhere")).glob("gpu/**/libonnxruntime_providers_cuda.so")]
    if not found:
        pytest.skip("ONNXGPT_PEERS names no directory with an environment gpu, which has onnxruntime-gpu: see .ci/run")
    with found[0].open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
        for name in (*OPTIONS["cuda"], *REFUSED["cuda"]):
            # Names of 16 letters or less may be built in code instead of lying there, 8 letters at a time.
            pieces = [name.encode()] if len(name) < 17 else [name[:16].encode(), name.encode()]
            assert any(library.find(piece) >= 0 for piece in pieces), name
