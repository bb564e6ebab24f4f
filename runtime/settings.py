"""SessionSettings: how a session is opened, as one value that is checked once and passed on whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import OptionError, ProviderError
from .provider_options import checked_options

PROVIDER_NAMES = ("cpu", "cuda", "dml")
AUTO = "auto"
PROVIDER_LOG = "onnxgpt.provider"  # the logger that tells where something runs, and why


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """Where a graph runs and with what of the machine.

    Attributes:
        provider: `cpu`, `cuda`, `dml`, or `auto`: what the graph was made for, if that is there, else the CPU.
        provider_options: ONNX Runtime's own options of the provider, see `runtime.provider_options`.
        device: the device's number, for `cuda` and `dml`; None: the first.
        threads: threads inside an operator; None: one per physical core, within the process's CPU quota.
        low_power: half as many threads unless a number is given, and those that wait sleep at once instead of spinning.
        allow_fallback: nodes that a device has no kernels for may run on the CPU, however many they are.
        cuda_graph: record a decode step once and replay it, for `cuda`.

    Raises:
        ProviderError: an unknown provider, or less than one thread.
        OptionError: an option of a device without a provider that has devices, or a provider option that is none.
    """

    provider: str = AUTO
    provider_options: Mapping[str, object] = field(default_factory=dict)
    device: int | None = None
    threads: int | None = None
    low_power: bool = False
    allow_fallback: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.provider not in (AUTO, *PROVIDER_NAMES):
            raise ProviderError(f"unknown provider {self.provider!r}: expected {AUTO}, {', '.join(PROVIDER_NAMES)}")
        if self.threads is not None and self.threads < 1:
            raise ProviderError(f"threads is {self.threads}: expected 1 or more")
        if self.device is not None and self.device < 0:
            raise OptionError(f"device is {self.device}: expected 0 or more; onnxgpt doctor lists the devices")
        if self.device is not None and "device_id" in self.provider_options:
            raise OptionError("the device was given twice: with device, and with the provider option device_id")
        for name, given, providers in (
            ("device", self.device is not None, ("cuda", "dml")),
            ("provider_options", bool(self.provider_options), ("cuda", "dml")),
            ("cuda_graph", self.cuda_graph, ("cuda",)),
            ("allow_fallback", self.allow_fallback, (AUTO, "cuda", "dml")),
        ):
            if given and self.provider not in providers:
                named = " or ".join(provider for provider in providers if provider != AUTO)
                raise OptionError(f"{name} has no effect with provider {self.provider}: expected provider {named}")
        if self.provider != AUTO:
            checked_options(self.provider, self.provider_options)

    @property
    def device_number(self) -> int | None:
        """The device that was named, in either way; None: the first."""
        named = self.provider_options.get("device_id", self.device)
        return None if named is None else int(str(named))


DEFAULT_SETTINGS = SessionSettings()
