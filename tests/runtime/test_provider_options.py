"""ONNX Runtime's own options of its providers: checked names and values, and what reaches it."""

from __future__ import annotations

import pytest

from onnxgpt.runtime.errors import OptionError
from onnxgpt.runtime.provider_options import provider_arguments
from onnxgpt.runtime.settings import SessionSettings


def arguments(provider: str, **given: object) -> dict[str, str]:
    return provider_arguments(SessionSettings(provider=provider, **given), provider)  # type: ignore[arg-type]


def test_what_a_provider_gets_where_nothing_is_given() -> None:
    assert provider_arguments(SessionSettings(), "cpu") == {}
    assert arguments("cuda") == {"device_id": "0", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
    assert arguments("dml") == {"device_id": "0"}


def test_settings_and_options_of_the_user_win() -> None:
    given = {"use_tf32": True, "gpu_mem_limit": "2GiB", "arena_extend_strategy": "knextpoweroftwo", "sdpa_kernel": 4}

    assert arguments("cuda", device=1, cuda_graph=True, provider_options=given) == {
        "device_id": "1",
        "enable_cuda_graph": "1",
        "use_tf32": "1",
        "gpu_mem_limit": str(2 << 30),
        "arena_extend_strategy": "kNextPowerOfTwo",
        "sdpa_kernel": "4",
    }
    assert arguments("cuda", provider_options={"device_id": 3})["device_id"] == "3"


def test_directml_looks_for_a_device_itself_where_one_is_described() -> None:
    """Its factory takes a number before a description, and reads truths as words."""
    described = {"performance_preference": "high_performance", "disable_metacommands": 1}

    assert arguments("dml", provider_options=described) == {
        "performance_preference": "high_performance",
        "disable_metacommands": "True",
    }


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
        ("dml", {"device_filter": "cpu"}, "provider option device_filter is 'cpu': expected gpu or npu or any"),
        ("cuda", {"user_compute_stream": 140234}, "cuda has no provider option 'user_compute_stream'"),
    ],
)
def test_an_unknown_option_or_value_is_refused(provider: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        arguments(provider, provider_options=given)
