"""Which types, operators and targets go together, and what is said of those that don't."""

from __future__ import annotations

import pytest

from onnxgpt.graphs.targets import CPU_FLOAT32, TARGETS, graph_form
from onnxgpt.runtime.errors import OptionError


@pytest.mark.parametrize(("target", "dtype"), [("cpu", "float32"), ("cuda", "float16"), ("dml", "float16")])
@pytest.mark.parametrize("operators", ["fused", "standard"])
def test_without_a_dtype_the_target_tells_it(target: str, operators: str, dtype: str) -> None:
    form = graph_form(target, operators)
    assert (form.target, form.operators, form.dtype) == (TARGETS[target], operators, dtype)


def test_without_options_it_is_the_form_that_runs_anywhere() -> None:
    assert graph_form() == CPU_FLOAT32


@pytest.mark.parametrize(
    ("target", "operators", "dtype", "message"),
    [
        ("cpu", "fused", "bfloat16", "cpu has no bfloat16 kernels .*--dtype float32 or float16, or --target cuda"),
        ("cuda", "fused", "float32", "--dtype float16 or bfloat16, or --operators standard"),
        ("dml", "standard", "bfloat16", "--dtype float16 or float32, or --target cuda"),
        ("cpu", "fused", "float8", "'float8': expected float32 or float16"),
        ("cpu", "quick", None, "'quick': expected fused or standard"),
        ("npu", "fused", None, "'npu': expected cpu, cuda or dml"),
        ("web", "fused", None, "onnxgpt web"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_does(
    target: str, operators: str, dtype: str | None, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        graph_form(target, operators, dtype)
