"""What sessions are opened with, as ONNX Runtime reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import onnxgpt
from onnxgpt.runtime import engine
from onnxgpt.runtime.errors import ProviderError
from onnxgpt.runtime.threads import default_threads


def spins(options: Any, pool: str) -> bool:
    """Whether a pool's threads spin: ONNX Runtime raises for an entry that nobody made."""
    try:
        return bool(options.get_session_config_entry(f"session.{pool}.allow_spinning") != "0")
    except RuntimeError:
        return True


def test_without_a_number_threads_are_those_worth_having() -> None:
    assert engine.session_options(None, None).intra_op_num_threads == default_threads()
    assert engine.session_options(3, None).intra_op_num_threads == 3
    assert engine.session_options(None, None, low_power=True).intra_op_num_threads == max(1, default_threads() // 2)
    assert engine.session_options(3, None, low_power=True).intra_op_num_threads == 3


def test_no_threads_at_all_are_refused() -> None:
    with pytest.raises(ProviderError, match="threads is 0: expected 1 or more"):
        engine.session_options(0, None)


@pytest.mark.parametrize("low_power", [False, True])
def test_waiting_threads_spin_unless_power_is_to_be_saved(low_power: bool) -> None:
    options = engine.session_options(2, Path("weights"), low_power=low_power)

    assert spins(options, "intra_op") is not low_power
    assert spins(options, "inter_op") is not low_power


def test_a_model_can_be_loaded_to_save_power() -> None:
    saving, usual = onnxgpt.load(low_power=True, threads=2), onnxgpt.load(threads=2)

    assert not spins(saving.session._session.get_session_options(), "intra_op")
    assert spins(usual.session._session.get_session_options(), "intra_op")
    texts = [model.generate("Once upon a time", seed=7, max_new_tokens=8)[0].text for model in (saving, usual)]
    assert texts[0] == texts[1]
