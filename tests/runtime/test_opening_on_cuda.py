"""Opening a bundle on a CUDA device: taken, placed, told; where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxgpt
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.devices import devices_of
from onnxgpt.runtime.engine import ort
from onnxgpt.runtime.errors import MemoryLimitError, ProviderError
from onnxgpt.runtime.placement import CPU, FALLBACK_LIMIT
from onnxgpt.runtime.session import Session
from onnxgpt.runtime.settings import SessionSettings

CUDA = "CUDAExecutionProvider"
pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The fairy-tale model for CUDA, in float16."""
    if CUDA not in ort.get_available_providers():
        pytest.skip("needs onnxruntime-gpu (pip install onnxgpt[cuda])")
    if not devices_of("cuda"):
        pytest.skip(f"needs a CUDA device: {devices_of('cuda').reason}")
    from onnxgpt.export import export_bundle

    checkpoint = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint"
    return export_bundle(checkpoint, tmp_path_factory.mktemp("cuda") / "fairytale", target="cuda")


def test_auto_and_the_name_both_take_the_device(bundle: Bundle) -> None:
    card = devices_of("cuda").found[0]
    places = [Session.open_bundle(bundle, SessionSettings(provider=name)).place for name in ("auto", "cuda")]

    assert [place.provider for place in places] == ["cuda", "cuda"]
    assert [place.reason for place in places] == [f"made for cuda in float16; {card.name}", "asked for"]
    assert str(places[0]) == f"cuda device {card.index} ({card.name})"


def test_all_that_computes_is_on_the_device(bundle: Bundle) -> None:
    placement = Session.open_bundle(bundle, SessionSettings(provider="cuda")).place.placement

    assert placement.nodes()[CUDA] > placement.nodes().get(CPU, 0)
    assert placement.fallback_share <= FALLBACK_LIMIT
    assert "GroupQueryAttention" not in placement.fallen_back()


def test_the_library_is_silent_while_it_opens(bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    Session.open_bundle(bundle, SessionSettings(provider="cuda"))

    assert capfd.readouterr() == ("", "")


def test_the_room_beside_the_weights_is_known(bundle: Bundle) -> None:
    room = Session.open_bundle(bundle, SessionSettings(provider="cuda")).room

    assert room is not None
    assert room.free is not None
    assert 0 < room.free <= (devices_of("cuda").found[0].memory_bytes or 0)
    assert room.largest_context() == room.free // room.bytes_per_token
    assert "the largest context that fits has" in str(room.exceeded(1 << 60))


def test_a_limit_of_the_arena_reaches_onnx_runtime_and_its_error_is_translated(bundle: Bundle) -> None:
    """At the loading, or where weights are not counted against the limit, at the first run."""
    with pytest.raises(MemoryLimitError, match=r"do not fit on cuda device 0|cuda device 0 .* is out of memory"):
        generate_within(bundle, "1MB")


def generate_within(bundle: Bundle, limit: str) -> None:
    model = onnxgpt.load(bundle.directory, provider="cuda", provider_options={"gpu_mem_limit": limit})
    model.generate("Once upon a time", max_new_tokens=4)


def test_a_number_that_no_device_has_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ProviderError, match="there is no device 4096"):
        onnxgpt.load(bundle.directory, provider="cuda", device=4096)
