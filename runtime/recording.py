"""Runs: how a session's graph is run: one at a time where the device wants that, and replayed where it was recorded.

CUDA can record what a run asks of the device (a CUDA graph) and replay it with one call. A recording is bound to the
addresses and shapes of its run, so only the steps of one lane are ever recorded, each lane's under a number of its own
(ONNX Runtime's run option `gpu_graph_id`); every other run says that it is not to be recorded. ONNX Runtime runs a
step that it records several times in a row: they write the same keys and values in the same places.

Sources: "Using CUDA Graphs" in ONNX Runtime's documentation of the CUDA provider, and its run options.
"""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .engine import ort

_NUMBER_OPTION, _UNRECORDED = "gpu_graph_id", "-1"


class Runs:
    """What runs one session's graph."""

    def __init__(self, session: Any, turn: AbstractContextManager[Any] | None = None, *, records: bool = False):
        """How to run.

        Args:
            session: ONNX Runtime's.
            turn: held while it runs, where others have to wait; None: runs go side by side.
            records: the session was opened with `enable_cuda_graph`.
        """
        self.session = session
        self.turn: AbstractContextManager[Any] = turn or nullcontext()
        self.unrecorded = _run_options(_UNRECORDED) if records else None  # options of runs that nobody repeats
        self._numbers = itertools.count(1)  # 0 is what runs have that say nothing

    def run(self, binding: Any, recording: Recording | None = None) -> None:
        """Run what is bound, and wait for its end; the caller holds the turn."""
        options = self.unrecorded if recording is None else recording.options
        if options is None:
            self.session.run_with_iobinding(binding)
        else:
            self.session.run_with_iobinding(binding, options)

    def new_recording(self) -> Recording | None:
        """A recording to be made of the steps of a lane; None where nothing is recorded."""
        return None if self.unrecorded is None else Recording(self.session, next(self._numbers))


class Recording:
    """The steps of one lane, recorded by the first of them."""

    def __init__(self, session: Any, number: int):
        self.number = number
        self.options = _run_options(str(number))
        self._session = session

    def close(self) -> None:
        """Let the recording go, where this ONNX Runtime can (from 1.31 on); otherwise it stays with the session."""
        if hasattr(self._session, "release_captured_graph"):
            self._session.release_captured_graph(self.number)


def _run_options(number: str) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry(_NUMBER_OPTION, number)
    return options
