"""Which provider a graph is opened with, why, and what is said when it can't be."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

import onnxgpt
from onnxgpt.loading import find_bundle
from onnxgpt.runtime import opening
from onnxgpt.runtime.bundle import Bundle
from onnxgpt.runtime.devices import Device, Devices
from onnxgpt.runtime.errors import OptionError, ProviderError
from onnxgpt.runtime.manifest import IMPORTED, GraphRecord
from onnxgpt.runtime.providers import PROVIDERS, Choice, Machine, Origin, choose, installed_packages, origin_of
from onnxgpt.runtime.session import Session
from onnxgpt.runtime.settings import PROVIDER_LOG, SessionSettings

CPU, CUDA, DML = "CPUExecutionProvider", "CUDAExecutionProvider", "DmlExecutionProvider"
CARD = Device(0, "Planted card", 8 << 30, "9.0")
SECOND = Device(1, "Planted second card", 8 << 30, "9.0")
ORIGIN = Origin("./my-gpt2")
FLOAT32 = GraphRecord()
EMBEDDED = Bundle.open(find_bundle("fairytale"))
FOR_CUDA = GraphRecord(target="cuda", dtype="float16")


def machine(*build: str, cuda: tuple[Device, ...] = (), dml: tuple[Device, ...] = ()) -> Machine:
    """A machine whose ONNX Runtime has some providers, with some devices."""
    found = {
        "cuda": Devices(cuda, "" if cuda else "there is no NVIDIA driver here"),
        "dml": Devices(dml, "" if dml else "DirectML is part of Windows alone"),
        "cpu": Devices((Device(0, "CPU"),)),
    }
    packages = {CUDA: "onnxruntime-gpu", DML: "onnxruntime-directml"}
    return Machine((*build, CPU), found.__getitem__, lambda: [packages[name] for name in build] or ["onnxruntime"])


PLAIN = machine()
NO_DEVICE = machine(CUDA)
WITH_CUDA = machine(CUDA, cuda=(CARD, SECOND))
WITH_DML = machine(DML, dml=(CARD,))


def chosen(graph: GraphRecord, here: Machine, provider: str = "auto", device: int | None = None) -> list[Choice]:
    return choose(SessionSettings(provider=provider, device=device), graph, ORIGIN, here)


def names(choices: list[Choice]) -> list[str]:
    return [choice.provider.name for choice in choices]


@pytest.mark.parametrize(
    ("graph", "here", "expected", "reason"),
    [
        (FLOAT32, PLAIN, ["cpu"], "made for cpu in float32"),
        (FLOAT32, NO_DEVICE, ["cpu"], "made for cpu in float32"),
        (
            FLOAT32,
            WITH_CUDA,
            ["cpu"],
            "made for cpu in float32; `onnxgpt export ./my-gpt2 --target cuda --out DIR` makes one for the CUDA device "
            "here",
        ),
        (FOR_CUDA, WITH_CUDA, ["cuda", "cpu"], "made for cuda in float16; Planted card"),
        (FOR_CUDA, NO_DEVICE, ["cpu"], "made for cuda in float16, but there is no NVIDIA driver here"),
        (
            FOR_CUDA,
            machine(cuda=(CARD,)),
            ["cpu"],
            "made for cuda in float16, but the installed ONNX Runtime has cpu (run `pip uninstall onnxruntime`, then "
            '`pip install "onnxgpt[cuda]"`)',
        ),
        (
            GraphRecord(dtype="float16"),
            WITH_CUDA,
            ["cpu"],
            "made for cpu in float16; `onnxgpt export ./my-gpt2 --target",
        ),
        (GraphRecord(target="cuda", dtype="bfloat16"), WITH_CUDA, ["cuda"], "made for cuda in bfloat16; Planted card"),
        (
            GraphRecord(target="cuda", operators="standard"),
            WITH_CUDA,
            ["cuda", "cpu"],
            "made for cuda in float32; Planted card",
        ),
        (GraphRecord(target="dml", dtype="float16"), WITH_DML, ["dml", "cpu"], "made for dml in float16; Planted card"),
        (GraphRecord(target="dml"), WITH_DML, ["dml", "cpu"], "made for dml in float32; Planted card"),
        (
            GraphRecord(target="dml", dtype="float16"),
            PLAIN,
            ["cpu"],
            "made for dml in float16, but DirectML is part of Windows alone",
        ),
        (GraphRecord(target="web"), WITH_CUDA, ["cpu"], "made for web in float32"),
        (
            GraphRecord(operators=IMPORTED, foreign=True),
            WITH_CUDA,
            ["cpu"],
            "as every graph that somebody else exported, unless a provider is named",
        ),
    ],
)
def test_auto_takes_the_best_that_is_there_and_has_kernels(
    graph: GraphRecord, here: Machine, expected: list[str], reason: str
) -> None:
    choices = chosen(graph, here)

    assert names(choices) == expected
    assert choices[0].reason.startswith(reason)


@pytest.mark.parametrize(
    ("graph", "here", "provider"),
    [
        (FLOAT32, WITH_CUDA, "cpu"),
        (FOR_CUDA, PLAIN, "cpu"),
        (FOR_CUDA, WITH_CUDA, "cuda"),
        (GraphRecord(dtype="float16"), WITH_CUDA, "cuda"),
        (GraphRecord(operators=IMPORTED, foreign=True), WITH_CUDA, "cuda"),
        (GraphRecord(operators=IMPORTED, foreign=True), WITH_DML, "dml"),
        (GraphRecord(target="dml"), WITH_DML, "dml"),
    ],
)
def test_a_named_provider_and_no_other_is_taken(graph: GraphRecord, here: Machine, provider: str) -> None:
    assert names(chosen(graph, here, provider)) == [provider]


INSTALL = '(run `pip uninstall onnxruntime`, then `pip install "onnxgpt[cuda]"`)'
MAKE = "(`onnxgpt export ./my-gpt2 --target {} --out DIR` makes one that it can run)"


@pytest.mark.parametrize(
    ("graph", "here", "provider", "problems"),
    [
        (FOR_CUDA, machine(cuda=(CARD,)), "cuda", [f"the installed ONNX Runtime has cpu {INSTALL}"]),
        (
            FOR_CUDA,
            machine(DML, cuda=(CARD,)),
            "cuda",
            [f"the installed ONNX Runtime has dml and cpu {INSTALL.replace('onnxruntime', 'onnxruntime-directml')}"],
        ),
        (FOR_CUDA, NO_DEVICE, "cuda", ["there is no NVIDIA driver here"]),
        (
            FLOAT32,
            PLAIN,
            "cuda",
            [
                f"the installed ONNX Runtime has cpu {INSTALL}",
                "there is no NVIDIA driver here",
                f"CUDA's attention takes float16 and bfloat16, and this bundle is float32 {MAKE.format('cuda')}",
            ],
        ),
        (
            FLOAT32,
            WITH_CUDA,
            "cuda",
            [f"CUDA's attention takes float16 and bfloat16, and this bundle is float32 {MAKE.format('cuda')}"],
        ),
        (
            GraphRecord(target="cuda", dtype="bfloat16"),
            WITH_CUDA,
            "cpu",
            [f"the CPU has no bfloat16 kernels {MAKE.format('cpu')}"],
        ),
        (
            FLOAT32,
            WITH_DML,
            "dml",
            [f"DirectML has not all of the operators of a bundle that is made for cpu {MAKE.format('dml')}"],
        ),
    ],
)
def test_a_named_provider_that_cannot_be_had_is_an_error_with_every_remedy(
    graph: GraphRecord, here: Machine, provider: str, problems: list[str]
) -> None:
    with pytest.raises(ProviderError) as caught:
        chosen(graph, here, provider)

    assert str(caught.value) == f"provider {provider} can't run this bundle: {'; '.join(problems)}"


def test_a_bundle_that_nothing_here_can_run_is_an_error_under_auto_too() -> None:
    with pytest.raises(ProviderError) as caught:
        chosen(GraphRecord(target="cuda", dtype="bfloat16"), NO_DEVICE)

    assert str(caught.value) == (
        "no provider can run this bundle, made for cuda: there is no NVIDIA driver here; the CPU has no bfloat16 "
        f"kernels {MAKE.format('cpu')}"
    )


def test_a_device_that_is_not_there_is_named_beside_those_that_are() -> None:
    assert names(chosen(FOR_CUDA, WITH_CUDA, "cuda", device=1)) == ["cuda"]
    with pytest.raises(ProviderError, match=r"no device 2 \(it has 0: Planted card, 1: Planted second card\)"):
        chosen(FOR_CUDA, WITH_CUDA, "cuda", device=2)
    with pytest.raises(ProviderError, match="there is no device 3 "):
        choose(SessionSettings(provider="cuda", provider_options={"device_id": 3}), FOR_CUDA, ORIGIN, WITH_CUDA)


def test_packages_over_each_other_are_to_be_uninstalled_together() -> None:
    """Uninstalling one takes files of the other away, and pip would think that the other is there."""
    clash = Machine((CPU,), WITH_CUDA.find_devices, lambda: ["onnxruntime", "onnxruntime-gpu"])
    with pytest.raises(ProviderError, match=r"`pip uninstall onnxruntime onnxruntime-gpu`, then `pip install "):
        chosen(FOR_CUDA, clash, "cuda")


def test_the_installed_package_is_found() -> None:
    assert installed_packages() == [opening.ort.package_name]


def test_a_quantized_bundle_is_to_be_quantized_again() -> None:
    command = Origin("my models/gpt", "int8").command("cuda")

    assert command == (
        '`onnxgpt export "my models/gpt" --target cuda --out DIR`, then `onnxgpt quantize DIR --out SMALLER`'
    )


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"provider": "tpu"}, ProviderError, "unknown provider 'tpu': expected auto, cpu, cuda, dml"),
        ({"threads": 0}, ProviderError, "threads is 0: expected 1 or more"),
        ({"device": -1, "provider": "cuda"}, OptionError, "device is -1"),
        ({"device": 0}, OptionError, "device has no effect with provider auto: expected provider cuda or dml"),
        ({"device": 0, "provider": "cpu"}, OptionError, "device has no effect with provider cpu"),
        ({"cuda_graph": True, "provider": "dml"}, OptionError, "cuda_graph has no effect with provider dml"),
        ({"allow_fallback": True, "provider": "cpu"}, OptionError, "allow_fallback has no effect with provider cpu"),
        ({"provider_options": {"device_id": 0}}, OptionError, "provider_options has no effect with provider auto"),
        (
            {"provider_options": {"device_id": 0}, "device": 0, "provider": "cuda"},
            OptionError,
            "the device was given twice",
        ),
    ],
)
def test_settings_without_sense_are_refused_before_anything_is_opened(
    given: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        onnxgpt.load("fairytale", **given)  # type: ignore[arg-type]


@pytest.fixture
def planted_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say that there is a CUDA build with a card, where there is none: ONNX Runtime then falls back to the CPU."""
    monkeypatch.setattr(opening, "Machine", lambda available: Machine((*available, CUDA), WITH_CUDA.find_devices))


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.skipif("CUDAExecutionProvider" in opening.ort.get_available_providers(), reason="needs the CPU build")
def test_onnx_runtime_that_falls_back_behind_the_users_back_is_an_error(planted_card: None) -> None:
    with pytest.raises(ProviderError, match="ONNX Runtime can't use CUDA here: "):
        Session.open(EMBEDDED.graph_path, SessionSettings(provider="cuda"), record=FOR_CUDA)


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.skipif("CUDAExecutionProvider" in opening.ort.get_available_providers(), reason="needs the CPU build")
def test_auto_goes_on_to_the_next_and_says_why(planted_card: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=PROVIDER_LOG):
        session = Session.open(EMBEDDED.graph_path, record=FOR_CUDA)

    assert session.provider == "cpu"
    assert session.place.reason.startswith("made for cuda in float16; not on cuda: ONNX Runtime can't use CUDA here: ")
    assert caplog.messages == [f"running on cpu ({session.place.reason})"]


def test_the_library_says_once_where_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    opening._tell.cache_clear()
    with caplog.at_level(logging.INFO, logger=PROVIDER_LOG):
        places = [Session.open_bundle(EMBEDDED).place for _ in range(2)]

    assert [(place.provider, place.reason) for place in places] == [("cpu", "made for cpu in float32")] * 2
    assert caplog.messages == ["running on cpu (made for cpu in float32)"]


@pytest.mark.skipif("CUDAExecutionProvider" in opening.ort.get_available_providers(), reason="needs the CPU build")
def test_a_graph_for_another_provider_runs_on_the_cpu_where_its_own_is_not_there() -> None:
    session = Session.open(EMBEDDED.graph_path, record=FOR_CUDA)

    assert session.provider == "cpu"
    assert session.place.reason.startswith("made for cuda in float16, but ")
    assert session.room is None


@pytest.fixture
def empty_card(planted_card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that has kernels for nothing: a session that asks for it really runs on the CPU, node by node."""
    monkeypatch.setitem(PROVIDERS, "cuda", replace(PROVIDERS["cuda"], runtime_name=CPU))


def test_a_device_that_leaves_nearly_all_nodes_to_the_cpu_is_refused(empty_card: None) -> None:
    layers = EMBEDDED.manifest.architecture["num_layers"]
    with pytest.raises(
        ProviderError, match=rf"nodes that compute have no kernel on cuda .*{layers} GroupQueryAttention"
    ):
        opening.open_graph(EMBEDDED.graph_path, FOR_CUDA, SessionSettings(provider="cuda"))

    place = opening.open_graph(EMBEDDED.graph_path, FOR_CUDA, SessionSettings())[1]
    assert place.provider == "cpu"
    assert "; not on cuda: " in place.reason


def test_it_is_allowed_where_the_user_says_so_and_told(empty_card: None, caplog: pytest.LogCaptureFixture) -> None:
    settings = SessionSettings(provider="cuda", device=1, allow_fallback=True)
    place = opening.open_graph(EMBEDDED.graph_path, FOR_CUDA, settings)[1]

    assert str(place) == "cuda device 1 (Planted second card)"
    assert caplog.messages[0].startswith("on the CPU instead of cuda: ")
    assert "GroupQueryAttention" in caplog.messages[0]


def test_a_directory_is_not_named_by_the_last_part_of_its_path() -> None:
    manifest = Bundle.open(find_bundle("fairytale")).manifest
    hub = replace(manifest, source=manifest.source | {"kind": "hub", "location": "openai-community/gpt2"})

    assert manifest.source["kind"] == "directory"
    assert origin_of(manifest) == Origin("SOURCE", "int8")
    assert origin_of(hub) == Origin("openai-community/gpt2", "int8")
