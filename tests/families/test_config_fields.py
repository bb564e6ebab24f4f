"""Every field of every family's config is used, refused, or harmless; harmless is what transformers proves it to be."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers

from onnxgpt.models.config_fields import _COMMON_HARMLESS, _COMMON_INACTIVE
from onnxgpt.models.families import FAMILIES
from onnxgpt.runtime.errors import OnnxGptError

from .cases import Case, all_cases
from .judging import tiny_model

# Where nothing is set, every kind of thing is tried.
TRIED = (True, 3, 0.5, "relu", [1, 0], {"factor": 2.0})


def first_cases() -> list[Case]:
    """One case of each family."""
    return list({case.model_type: case for case in reversed(all_cases())}.values())


def other_values(value: Any) -> Iterator[Any]:
    """Values of the same kind that differ."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value * 2)
    elif isinstance(value, float):
        yield from (value * 0.5 + 0.125, 3.0)
    elif isinstance(value, str):
        yield from ("relu", "silu")
    elif value is None:
        yield from TRIED
    elif isinstance(value, list):
        yield value[::-1]


def accepted_as_the_same(model_type: str, data: dict[str, Any], name: str, value: Any) -> bool:
    """Whether the field with another value is read without complaint and changes nothing: so it is called harmless."""
    family = FAMILIES[model_type]
    before = family.config_from(data, "config.json")
    try:
        return family.config_from(data | {name: value}, "config.json") == before
    except OnnxGptError:
        return False


def logits_with(model: Any, name: str, value: Any, ids: torch.Tensor) -> torch.Tensor | None:
    """transformers' logits with the same weights and one field changed; None where it makes no such model."""
    config = copy.deepcopy(model.config)
    try:
        setattr(config, name, value)
        changed = transformers.AutoModelForCausalLM.from_config(config).eval()
        changed.load_state_dict(model.state_dict(), strict=True)
        with torch.no_grad():
            return changed(ids).logits  # type: ignore[no-any-return]
    except Exception:  # whatever transformers says to nonsense
        return None


@pytest.mark.parametrize("case", first_cases(), ids=lambda case: case.model_type)
def test_a_field_that_is_let_pass_changes_no_logit(case: Case) -> None:
    model = tiny_model(case.model_type, case.settings)
    data = json.loads(model.config.to_json_string(use_diff=False))
    data["architectures"] = [type(model).__name__]
    ids = torch.randint(1, 256, (1, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids).logits
    walked = 0
    for name, value in data.items():
        if name in _COMMON_HARMLESS or name in _COMMON_INACTIVE or name == "architectures":
            continue
        walked += 1
        for other in other_values(value):
            if not accepted_as_the_same(case.model_type, data, name, other):
                continue
            found = logits_with(model, name, other, ids)
            if found is not None:
                difference = (found - expected).abs().max()
                assert difference <= 1e-4, f"{name} = {other!r} is let pass and changes the logits by {difference}"
    assert walked > 8


@pytest.mark.parametrize("case", first_cases(), ids=lambda case: case.model_type)
def test_an_unknown_field_is_refused_by_name(case: Case) -> None:
    model = tiny_model(case.model_type, case.settings)
    data = json.loads(model.config.to_json_string(use_diff=False)) | {"architectures": [type(model).__name__]}
    with pytest.raises(OnnxGptError, match="residual_twist"):
        FAMILIES[case.model_type].config_from(data | {"residual_twist": 0.5}, "config.json")
