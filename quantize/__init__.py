"""Bundle to smaller bundle. Needs onnx and onnx-ir, never PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..runtime.bundle import Bundle

__all__ = ["quantize_bundle"]


def quantize_bundle(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    recipe: str = "int8",
    calibration: str | os.PathLike[str] | None = None,
    evaluation: str | os.PathLike[str] | None = None,
    force: bool = False,
    accept_quality: bool = False,
    threads: int | None = None,
    progress: Callable[[str, float | None], None] | None = None,
    **fields: Any,
) -> Bundle:
    """Quantize the full- or half-precision bundle in `source` to a new one in `out`, and judge it by the first.

    Args:
        source: a bundle's directory, of any type; the new one is for the same target, in the same type.
        out: the new bundle's directory, which is written whole or not at all.
        recipe: `int8`, `int4`, `auto`, `cache`, `int8-dynamic` or `int8-static`; see `onnxgpt.quantize.recipe`.
        calibration: a UTF-8 text like those the model will read; None: one in the package.
        evaluation: a UTF-8 text to judge by, which calibration must not have seen; None: one in the package.
        force: replace an existing bundle.
        accept_quality: write the bundle although it is over the recipe's limit.
        threads: threads inside an operator; None lets ONNX Runtime choose.
        progress: called with what is being done and the fraction of it that is done, or None.
        fields: fields of the recipe to change, such as `kv_cache="int8"`.

    Raises:
        OptionError: an unknown recipe or field, or a text that is none or too short.
        BundleError: `source` is no sound bundle.
        QuantizationError: it is quantized already, or a matrix has a NaN or an infinity in it.
        QualityError: the new bundle is too far from the first; nothing was written.
        OutputExistsError: `out` exists and `force` is false.
    """
    from ..graphs.lifting import computable
    from ..runtime.bundle import Bundle, refuse_existing
    from ..runtime.settings import SessionSettings
    from .calibration_text import calibration_windows, refuse_short
    from .pipeline import quantize_to, refuse_unfit
    from .quality import measure_quality
    from .recipe import recipe_named
    from .text_files import EvaluationText

    chosen = recipe_named(recipe, **fields)
    refuse_existing(out, force=force)
    bundle = Bundle.open(source)
    refuse_unfit(bundle, chosen)
    judged_by = EvaluationText.packaged("evaluation") if evaluation is None else EvaluationText.read(evaluation)
    refuse_short(bundle, judged_by)  # now, not after the work
    read = EvaluationText.packaged("calibration") if calibration is None else EvaluationText.read(calibration)

    def judge(candidate: Bundle) -> tuple[dict[str, object], float]:
        settings = SessionSettings(threads=threads)
        with computable(bundle) as reference:
            report = measure_quality(candidate, reference, judged_by, settings=settings, progress=progress)
        return report.to_dict(), report.mean_kl

    return quantize_to(
        bundle,
        out,
        chosen,
        calibration_windows(bundle, read),
        judge=judge,
        force=force,
        accept_quality=accept_quality,
        threads=threads,
        progress=progress,
    )
