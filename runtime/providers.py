"""Execution providers: what each is called and runs, and which one a graph is opened with, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

from .devices import Device, Devices, devices_of
from .errors import ProviderError
from .manifest import IMPORTED, GraphRecord, Manifest
from .settings import AUTO, SessionSettings


@dataclass(frozen=True)
class Provider:
    """One way to run a graph.

    Attributes:
        name: ours, and that of the target that graphs are exported for.
        title: as its makers write it.
        runtime_name: ONNX Runtime's.
        package: the build of ONNX Runtime that has it.
        extra: of onnxgpt, which installs that.
    """

    name: str
    title: str
    runtime_name: str
    package: str
    extra: str


# The CPU last: the order in which `auto` looks.
PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("cuda", "CUDA", "CUDAExecutionProvider", "onnxruntime-gpu", "cuda"),
        Provider("dml", "DirectML", "DmlExecutionProvider", "onnxruntime-directml", "directml"),
        Provider("cpu", "the CPU", "CPUExecutionProvider", "onnxruntime", "cpu"),
    )
}


@dataclass(frozen=True)
class Origin:
    """What a bundle was made of: for the command that makes it anew for another provider."""

    source: str = "SOURCE"
    recipe: str | None = None  # by which it was quantized

    def command(self, target: str) -> str:
        """The command, or two where the bundle is quantized."""
        source = f'"{self.source}"' if " " in self.source else self.source
        export = f"`onnxgpt export {source} --target {target} --out DIR`"
        return export if self.recipe is None else f"{export}, then `onnxgpt quantize DIR --out SMALLER`"


UNKNOWN_ORIGIN = Origin()


def origin_of(manifest: Manifest) -> Origin:
    """What a bundle was made of. Of a directory the manifest has the last name alone, which leads nowhere."""
    location = None if manifest.source.get("kind") == "directory" else manifest.source.get("location")
    return Origin(location or UNKNOWN_ORIGIN.source, (manifest.quantization or {}).get("name"))


@dataclass(frozen=True)
class Choice:
    """A provider to open a graph with, and why it was taken, in a few words."""

    provider: Provider
    reason: str


def installed_packages() -> list[str]:
    """The packages of ONNX Runtime that are installed here. More than one lie over each other: none is whole."""
    return [provider.package for provider in reversed(PROVIDERS.values()) if _is_installed(provider.package)]


def _is_installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


@dataclass(frozen=True)
class Machine:
    """What this machine offers.

    Attributes:
        available: ONNX Runtime's names of the providers in its build.
        find_devices: finds a provider's devices.
        find_packages: finds the installed packages of ONNX Runtime.
    """

    available: Sequence[str]
    find_devices: Callable[[str], Devices] = devices_of
    find_packages: Callable[[], Sequence[str]] = installed_packages

    def has_device(self, provider: Provider) -> bool:
        """Whether a provider is in the build and has a device."""
        return provider.runtime_name in self.available and bool(self.find_devices(provider.name))

    def lacks(self, provider: Provider, device: int | None = None) -> list[str]:
        """What is missing for a provider to run anything, each with its remedy; nothing where it can."""
        missing = []
        if provider.runtime_name not in self.available:
            built = [other.name for other in PROVIDERS.values() if other.runtime_name in self.available]
            packages = " ".join(self.find_packages()) or "onnxruntime"  # built from source it may have another name
            missing.append(
                f"the installed ONNX Runtime has {' and '.join(built) or 'none of these providers'} "
                f'(run `pip uninstall {packages}`, then `pip install "onnxgpt[{provider.extra}]"`)'
            )
        devices = self.find_devices(provider.name)
        if not devices:
            missing.append(devices.reason)
        elif device is not None and device not in [found.index for found in devices.found]:
            shown = ", ".join(f"{found.index}: {found.name}" for found in devices.found)
            missing.append(f"there is no device {device} (it has {shown})")
        return missing

    def device(self, provider: Provider, number: int | None = None) -> Device:
        """A device by its number; the first one without. Of one that `lacks` doesn't miss."""
        return next(found for found in self.find_devices(provider.name).found if number in (None, found.index))


def lacks_kernels(provider: Provider, graph: GraphRecord) -> str:
    """Why a provider can't run a graph, by what the manifest says of it; empty where it can, or where nobody knows.

    Sources: the types of GroupQueryAttention and MatMulNBits in ONNX Runtime's docs/OperatorKernels.md.
    """
    if graph.operators == IMPORTED:
        return ""
    if provider.name == "cpu" and graph.dtype == "bfloat16":
        return "the CPU has no bfloat16 kernels"
    if provider.name == "cuda" and graph.operators == "fused" and graph.dtype == "float32":
        return "CUDA's attention takes float16 and bfloat16, and this bundle is float32"
    if provider.name == "dml" and graph.target != "dml":
        return f"DirectML has not all of the operators of a bundle that is made for {graph.target}"
    return ""


def choose(settings: SessionSettings, graph: GraphRecord, origin: Origin, machine: Machine) -> list[Choice]:
    """The providers to open a graph with: the first, or the next one where that turns out not to run it.

    `auto` takes the one that the graph was made for, if it is in the build and has a device, else the CPU, where
    graphs that somebody else exported stay.

    Raises:
        ProviderError: none is left; what is missing is named, with what to do about it.
    """
    if settings.provider != AUTO:
        provider = PROVIDERS[settings.provider]
        if problems := _problems(provider, settings, graph, origin, machine):
            raise ProviderError(f"provider {provider.name} can't run this bundle: {'; '.join(problems)}")
        return [Choice(provider, "asked for")]
    fitting = [
        provider
        for provider in PROVIDERS.values()
        if _is_looked_at(provider, graph) and not _problems(provider, settings, graph, origin, machine)
    ]
    if not fitting:
        made_for = PROVIDERS.get(graph.target, PROVIDERS["cpu"])
        problems = _problems(made_for, settings, graph, origin, machine)
        if made_for.name != "cpu":
            problems += _problems(PROVIDERS["cpu"], settings, graph, origin, machine)
        raise ProviderError(f"no provider can run this bundle, made for {made_for.name}: {'; '.join(problems)}")
    return [Choice(provider, _reason(provider, graph, origin, machine)) for provider in fitting]


def _is_looked_at(provider: Provider, graph: GraphRecord) -> bool:
    if provider.name == "cpu":
        return True
    return graph.operators != IMPORTED and graph.target == provider.name


def _problems(
    provider: Provider, settings: SessionSettings, graph: GraphRecord, origin: Origin, machine: Machine
) -> list[str]:
    """Everything that keeps a provider from running a graph here, each with its remedy."""
    problems = machine.lacks(provider, settings.device_number)
    if lacking := lacks_kernels(provider, graph):
        target = provider.name
        problems.append(f"{lacking} ({origin.command(target)} makes one that it can run)")
    return problems


def _reason(provider: Provider, graph: GraphRecord, origin: Origin, machine: Machine) -> str:
    if graph.operators == IMPORTED:
        return "as every graph that somebody else exported, unless a provider is named"
    made = f"made for {graph.target} in {graph.dtype}"
    if provider.name != "cpu":
        return f"{made}; {machine.device(provider).name}"
    wanted = PROVIDERS.get(graph.target)
    if wanted is not None and wanted is not provider:
        lacking = machine.lacks(wanted)
        return f"{made}, but {lacking[-1]}" if lacking else made  # without a device there is nothing to install
    idle = next((other for other in PROVIDERS.values() if other is not provider and machine.has_device(other)), None)
    return made if idle is None else f"{made}; {origin.command(idle.name)} makes one for the {idle.title} device here"
