"""The checkup: every part in its order, each standing alone, so that a fault in one does not hide the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from ..runtime.threads import CpuLimits, cpu_limits
from .accelerators import accelerator_findings
from .builds import build_on_disk, installed_builds
from .cache import cache_findings
from .conflicts import NAME as INSTALLATION
from .conflicts import build_findings
from .findings import Finding
from .library import import_finding, telemetry_finding
from .processor import Processor, processor_finding, this_processor
from .versions import versions_findings

if TYPE_CHECKING:
    from ..runtime.model import Model

Part = Callable[[], Iterable[Finding]]
_WRONG_RESULTS = "install the newest ONNX Runtime, and tell its makers which processor or device this is"


def checkup(
    *, processor: Processor | None = None, selftest: bool = True, progress: Callable[[str], None] | None = None
) -> Iterator[Finding]:
    """Look at everything; findings come as they are made.

    Args:
        processor: the processor to judge; None: the one here.
        selftest: also run the embedded model, which takes some seconds.
        progress: is told what is looked at.
    """
    told = progress or (lambda what: None)
    judged, limits = processor or this_processor(), cpu_limits()
    faults = set()
    for what, part in (
        ("versions", versions_findings),
        ("ONNX Runtime", lambda: build_findings(installed_builds(), build_on_disk())),
        ("telemetry", lambda: [telemetry_finding()]),
        ("devices", lambda: accelerator_findings(build_on_disk())),
        ("processor", lambda: [processor_finding(judged, limits)]),
        ("models", cache_findings),
    ):
        told(what)
        for finding in _guarded(what, part):
            if finding.state == "fault":
                faults.add(finding.name)
            yield finding
    told("importing ONNX Runtime")
    found, ort = import_finding(explained=INSTALLATION in faults)
    yield found
    if ort is not None and selftest:
        told("measuring products")
        yield from _guarded("int8 products", lambda: _products(judged, limits))
        told("running the embedded model")
        yield from _guarded("self-test on cpu", _cpu_selftest)
        told("asking devices to compute")
        yield from _guarded("self-test on devices", lambda: _device_selftests(ort.get_available_providers()))


def _guarded(name: str, part: Part) -> Iterator[Finding]:
    """A part's findings; where it fails itself, that."""
    try:
        yield from part()
    except Exception as error:  # whatever is broken here must not keep the rest from being told
        found = f"could not be looked at ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        yield Finding(name, "fault", found, "report this to the makers of onnxgpt")


def _products(processor: Processor, limits: CpuLimits) -> Iterator[Finding]:
    from .products import measure_products, products_finding

    yield products_finding(measure_products(limits.threads), processor.kernel)


def _cpu_selftest() -> Iterator[Finding]:
    from .selftest import selftest_findings

    yield from selftest_findings(_embedded_on_cpu, "cpu", _WRONG_RESULTS)


def _embedded_on_cpu() -> Model:
    from ..loading import load

    return load(provider="cpu")


def _device_selftests(providers: list[str]) -> Iterator[Finding]:
    from .on_devices import device_findings

    yield from device_findings(providers)
