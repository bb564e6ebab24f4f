"""Tiny configurations of every family, one module each: MODEL_TYPE, BASE, CASES (name: what it changes in BASE)."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Case:
    """One tiny configuration of a family, as transformers takes it."""

    model_type: str
    name: str
    settings: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.model_type}: {self.name}"


def all_cases() -> list[Case]:
    """Every case of every module of this folder."""
    modules = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return [
        Case(module.MODEL_TYPE, name, module.BASE | changes)
        for module in modules
        for name, changes in module.CASES.items()
    ]
