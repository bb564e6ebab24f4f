"""ONNX Runtime as it is imported here: whether it can be, what providers it has, and whether its telemetry is off."""

from __future__ import annotations

import os
import sys
from typing import Any

from .findings import Finding

IMPORT, TELEMETRY = "import", "telemetry"
_SWITCH = "ORT_DISABLE_TELEMETRY"


def telemetry_finding() -> Finding:
    """Whether ONNX Runtime's telemetry is off. To be asked before it is imported: importing it here switches it off.

    Only the environment at the moment of its import counts.
    """
    imported = "onnxruntime" in sys.modules
    ours = f"{__package__.rpartition('.')[0]}.runtime.engine" in sys.modules
    facts = {"switch": os.environ.get(_SWITCH), "imported_before": imported and not ours}
    if imported and not ours and os.environ.get(_SWITCH) != "1":
        found = (
            "onnxruntime was imported before onnxgpt with its telemetry on: it looks up and contacts its maker's host"
        )
        advice = "set the switch before the program starts, or import onnxgpt.runtime.engine before onnxruntime"
        return Finding(TELEMETRY, "note", found, advice, (f"export {_SWITCH}=1",), facts)
    return Finding(TELEMETRY, "ok", f"off: {_SWITCH}=1 is set before onnxruntime is imported", facts=facts)


def import_finding(explained: bool = False) -> tuple[Finding, Any]:
    """Import ONNX Runtime; what came of it, and the module or None.

    Args:
        explained: a fault of its installation was found, so that a failure here needs no remedy of its own.
    """
    try:
        from ..runtime.engine import ort

        available = list(ort.get_available_providers())
    except Exception as error:  # it is missing, a shell without anything, or made for another numpy or system
        cause = error.__cause__ or error
        found = f"onnxruntime can't be imported ({type(cause).__name__}: {' '.join(str(cause).split())[:200]})"
        if explained:
            return Finding(IMPORT, "fault", found, "mend what is said of onnxruntime above"), None
        return Finding(
            IMPORT, "fault", found, "install it anew", ('pip install --force-reinstall "onnxgpt[cpu]"',)
        ), None
    facts = {"version": ort.__version__, "file": ort.__file__, "providers": available}
    shown = ", ".join(name.removesuffix("ExecutionProvider") for name in available)
    return Finding(IMPORT, "ok", f"onnxruntime {ort.__version__} with the providers {shown}", facts=facts), ort
