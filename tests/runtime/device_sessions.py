"""Sessions that keep everything on a device, which here is ONNX Runtime's own "cpu": the device's code, run on the CPU.

With a device at hand the same code is given its name. What is addressable stands for CUDA, what is not for DirectML.
"""

from __future__ import annotations

from typing import Any

from onnxgpt.runtime.device_store import DeviceStore
from onnxgpt.runtime.model import Model
from onnxgpt.runtime.session import Session


def on_device(session: Session, *, is_addressable: bool = True, ort_session: Any = None, **options: Any) -> Session:
    """The same loaded graph, its caches and what is bound beside them on the device `cpu`.

    Args:
        session: on the CPU.
        is_addressable: addresses can be counted with.
        ort_session: to run in place of its own.
        options: of the session, other than its own.
    """
    ort_session = ort_session or session.runs.session
    records = "place" in options and options["place"].cuda_graph
    store = DeviceStore(ort_session, session.spec.layout, device="cpu", is_addressable=is_addressable, records=records)
    options = {
        "shares_cache_buffer": session.shares_cache_buffer,
        "budget": session.budget,
        "context_length": session.context_length,
        **options,
    }
    return Session(ort_session, session.spec, store=store, **options)


def model_on_device(model: Model, *, is_addressable: bool = True) -> Model:
    """The same model, stepped on a device."""
    return Model(model.bundle, on_device(model.session, is_addressable=is_addressable), model.tokenizer)
