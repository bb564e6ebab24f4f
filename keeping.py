"""How a bundle that keeps a file's quantization is judged: as every quantized one, by the same text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .quantize.quality import measure_quality
from .quantize.text_files import EvaluationText
from .runtime.bundle import Bundle


def judge_kept(
    candidate: Bundle,
    reference: Bundle,
    *,
    text: EvaluationText | None = None,
    progress: Callable[[str, float | None], None] | None = None,
) -> dict[str, Any]:
    """The quality report of a bundle with a file's own blocks against the file's model in full precision.

    Args:
        candidate: the bundle with blocks.
        reference: the same model with the blocks dequantized.
        text: what both read; None: the one in the package.
        progress: is told what is being done.

    Raises:
        OptionError: the text is too short for this tokenizer.
    """
    chosen = EvaluationText.packaged("evaluation") if text is None else text
    return measure_quality(candidate, reference, chosen, progress=progress).to_dict()
